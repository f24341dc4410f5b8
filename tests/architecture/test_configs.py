"""Every yaml of configs/ is true: it loads, its model can be built, every table entry is tried."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from egovl.config import build, find_context, load_tree
from egovl.data.prepare.configs import VideosConfig
from egovl.losses.configs import LOSSES
from egovl.recipe import load_recipe
from egovl.tables import DATASETS, MODELS, TASKS
from tests.architecture.source import ROOT

CONFIGS = ROOT / "configs"
SETTINGS = {"paths.yaml", "defaults.yaml"}
RECIPES = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.parent.name not in ("clusters", "pipelines", "prepare", "suites")
    and path.name not in SETTINGS
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_recipe_loads_and_builds_its_model(path: Path) -> None:
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = recipe.model.build()
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_recipe_says_what_it_aims_at(path: Path) -> None:
    head = [line for line in path.read_text().splitlines()[:12] if line.startswith("#")]
    text = "\n".join(head).lower()
    for word in ("aims at:", "command:", "hardware:", "expected:"):
        assert word in text, f"{path}: the header lacks {word!r}"


def test_every_table_entry_has_a_debug_recipe() -> None:
    used: set[str] = set()

    def collect(node: object) -> None:
        if dataclasses.is_dataclass(node):
            node = {each.name: getattr(node, each.name) for each in dataclasses.fields(node)}
        if isinstance(node, dict):
            if isinstance(node.get("name"), str):
                used.add(node["name"])
            node = list(node.values())
        if isinstance(node, list | tuple):
            for child in node:
                collect(child)

    for path in (CONFIGS / "debug").glob("*.yaml"):
        collect(load_recipe(path))
    missing = (set(TASKS) | set(MODELS) | set(DATASETS) | set(LOSSES)) - used
    assert not missing, f"no configs/debug/*.yaml uses {sorted(missing)}"


def test_every_cluster_profile_loads() -> None:
    from jobs.cluster import load_cluster

    profiles = sorted((CONFIGS / "clusters").glob("*.yaml"))
    assert profiles
    for path in profiles:
        assert load_cluster(CONFIGS, path.stem).name == path.stem


@pytest.mark.parametrize("path", sorted((CONFIGS / "pipelines").glob("*.yaml")), ids=str)
def test_every_pipeline_loads_and_so_do_its_recipes(path: Path, tmp_path: Path) -> None:
    from jobs.pipeline import load_pipeline, stand_in_references

    for stage in load_pipeline(path).stages:
        words = [stand_in_references(word, tmp_path) for word in stage.overrides]
        load_recipe(ROOT / stage.config, words)


@pytest.mark.parametrize("path", sorted((CONFIGS / "prepare").glob("*.yaml")), ids=str)
def test_every_preparation_loads(path: Path) -> None:
    config = build(VideosConfig, load_tree(path), find_context(path))
    assert config.source != config.out
    assert "command:" in path.read_text() and "makes:" in path.read_text()


@pytest.mark.parametrize("path", sorted((CONFIGS / "suites").glob("*.yaml")), ids=str)
def test_every_suite_loads_and_its_recipes_have_its_benchmarks(path: Path) -> None:
    from jobs.suite import load_suite

    for benchmark in load_suite(ROOT, path.stem).benchmarks:
        assert list(load_recipe(ROOT / benchmark.config).only(benchmark.name).evaluate)


def test_the_default_recipes_exist() -> None:
    defaults = yaml.safe_load((CONFIGS / "defaults.yaml").read_text())
    for kind, recipe in defaults["recipes"].items():
        assert (ROOT / recipe).is_file(), f"{kind}: {recipe}"
