from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.config_file import flatten_overrides, flatten_part, split_config
from tests.architecture.source import ROOT

RESOLVED: dict[str, Any] = {
    "model": {
        "name": "dual_encoder",
        "video": {"width": 768, "norm_eps": 1e-06, "patch_bias": False, "none": None},
        "empty": {},
    },
    "train": {"ratio": [0.75, 1.3333333333333333], "roots": [], "file": "/data/a b/c.csv"},
    "optim": {"lr": 3e-05, "betas": [0.9, 0.999], "steps": -5, "big": 1e22},
    "words": {"yes": "yes", "number": "0123", "float": "1e-3", "colon": "a: b", "hash": "a #b"},
    "seed": 0,
}


def flatten_file(text: str) -> dict[str, Any]:
    return {key: each for part in split_config(text) for key, each in flatten_part(part).items()}


def flatten_tree(value: Any, prefix: str = "") -> dict[str, Any]:
    """What the dotted keys should be, from yaml's own reading."""
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, each in value.items():
            flat |= flatten_tree(each, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        return flatten_tree(dict(enumerate(value)), prefix)
    if isinstance(value, list):
        return {prefix: f"[{', '.join(str(each) for each in value)}]"}
    return {prefix: "{}" if value == {} else value}


def test_a_resolved_config_reads_as_yaml_reads_it() -> None:
    text = yaml.safe_dump(RESOLVED, sort_keys=False)
    assert flatten_file(text) == flatten_tree(RESOLVED)


def test_plain_files_need_no_yaml_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    plain = {key: value for key, value in RESOLVED.items() if key != "words"}
    text = yaml.safe_dump(plain, sort_keys=False)
    assert flatten_file(text) == flatten_tree(plain)
    with pytest.raises(ValueError, match="yaml package"):
        flatten_part("a: {b: 1}")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name
)
def test_every_recipe_of_the_project_is_read_as_yaml_reads_it(path: Path) -> None:
    tree = yaml.safe_load(path.read_text())
    assert flatten_file(path.read_text()) == flatten_tree(tree)


def test_rarer_forms_go_to_yaml() -> None:
    assert flatten_part("a: {b: 1, c: [x, 2]}") == {"a.b": 1, "a.c": "[x, 2]"}
    assert flatten_part("a:\n- b: 1\n- c") == {"a.0.b": 1, "a.1": "c"}
    assert flatten_part("a: long text\n  that goes on") == {"a": "long text that goes on"}
    assert flatten_part('a: "x\\ty"') == {"a": "x\ty"}
    assert flatten_part("a: |\n  x\n  y\n") == {"a": "x\ny\n"}


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx: 1"])
def test_what_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="yaml"):
        flatten_part(text)


def test_parts_are_the_top_level_keys() -> None:
    assert split_config("a: 1\nb:\n  c: 2\n\nd:\n- 1\n- 2\n") == [
        "a: 1",
        "b:\n  c: 2\n",
        "d:\n- 1\n- 2",
    ]


def test_overrides_are_the_config_of_a_run_that_never_started() -> None:
    words = ["train", "--config", "x.yaml", "seed=2", "optim.lr=1e-4", "init.file=$w/a=b.pt"]
    expected = {"seed": 2, "optim.lr": 1e-4, "init.file": "$w/a=b.pt"}
    assert flatten_overrides(words) == expected
