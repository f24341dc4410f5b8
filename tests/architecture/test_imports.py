"""Imports point down: the arrows of the design, no cycles, heavy packages only where they serve."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.source import PACKAGES, ROOT, imports, modules

# folder or module -> what of our own it may import (prefixes); its own folder is always allowed
ARROWS = {
    "launchers": ("jobs", "launchers"),
    "jobs": ("jobs",),
    "egovl.config": (),
    "egovl.dist": (),
    "egovl.atomic": (),
    "egovl.shards": ("egovl.atomic",),
    "egovl.models": ("egovl.models",),
    "egovl.losses": ("egovl.losses",),
    "egovl.metrics": ("egovl.metrics",),
    "egovl.data": ("egovl.data", "egovl.shards", "egovl.atomic"),
    "egovl.data.pickled": ("egovl.data", "egovl.convert.unpickle"),
    "egovl.data.prepare.command": (
        "egovl.data",
        "egovl.config",
        "egovl.recipe",
        "egovl.work",
        "egovl.engine.signals",
    ),
    "egovl.data.loader": ("egovl.data", "egovl.dist"),
    "egovl.engine": ("egovl.engine", "egovl.dist", "egovl.atomic"),
    "egovl.convert.command": ("egovl.convert", "egovl.recipe"),
    "egovl.convert.groundnlq_config": (
        "egovl.convert",
        "egovl.models",
        "egovl.engine.configs",
        "egovl.losses.grounding_configs",
        "egovl.metrics.configs",
    ),
    "egovl.convert": ("egovl.convert", "egovl.models", "egovl.engine.checkpoint"),
    "egovl.tasks": (
        "egovl.tasks",
        "egovl.data",
        "egovl.models",
        "egovl.losses",
        "egovl.metrics",
        "egovl.dist",
        "egovl.shards",
        "egovl.atomic",
        "egovl.engine.task",
    ),
    "egovl.narration": (
        "egovl.narration",
        "egovl.data",
        "egovl.models",
        "egovl.convert",
        "egovl.engine",
        "egovl.dist",
        "egovl.config",
        "egovl.recipe",
        "egovl.run",
        "egovl.shards",
        "egovl.atomic",
        "egovl.tasks.configs",
    ),
    "egovl.tables": ("egovl.tasks", "egovl.models", "egovl.data"),
    "egovl.recipe": (
        "egovl.tables",
        "egovl.config",
        "egovl.engine.configs",
        "egovl.data.configs",
        "egovl.narration.configs",
        "egovl.data.datasets.nlq_configs",
        "egovl.data.datasets.view_configs",
    ),
    "egovl.streams": ("egovl.data", "egovl.recipe", "egovl.tasks.clip_cache", "egovl.dist"),
    "egovl.work": ("egovl.engine.folder", "egovl.engine.heartbeat"),
    "egovl.run": ("egovl",),
    "egovl.extract": ("egovl",),
    "egovl.query_tokens": ("egovl",),
    "egovl.ground": ("egovl",),
    "egovl.ground_page": ("egovl.data", "egovl.atomic"),
    "egovl.ground_configs": (),
    "egovl.ensemble": (
        "egovl.tasks.grounding_submission",
        "egovl.metrics.span_ensemble",
        "egovl.data.datasets.nlq_rows",
    ),
    "egovl.export": ("egovl",),
    "egovl.trained": ("egovl",),
    "egovl.caption": ("egovl",),
    "egovl.retrieve": ("egovl",),
    "egovl.__main__": ("egovl",),
}

# a third-party package -> the only modules that may import it
WRAPPED = {
    "transformers": {
        "egovl.models.hf_text",
        "egovl.models.seq2seq",
        "egovl.data.text",
        "egovl.data.caption_tokens",
    },
    "decord": {"egovl.data.decord_reader"},
    "torchcodec": {"egovl.data.torchcodec_reader"},
    "lmdb": {"egovl.data.feature_files"},
    "av": {
        "egovl.data.pyav_reader",
        "egovl.data.prepare.encode",
        "egovl.data.prepare.transcode",
    },
    "dacite": {"egovl.config"},
    "submitit": {"jobs.batch", "jobs.submitter", "jobs.agent", "jobs.local_start"},
    "PIL": {"egovl.data.image_reader"},
}


def _rule(name: str) -> tuple[str, ...] | None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (key := ".".join(parts[:length])) in ARROWS:
            return ARROWS[key]
    return None


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_every_import_follows_the_arrows() -> None:
    wrong = []
    for module in modules():
        rule = _rule(module.name)
        if rule is None:
            assert module.name == "egovl", f"{module.name} has no arrow in the design"
            continue
        for target in imports(module):
            if target.split(".")[0] in PACKAGES and target != "egovl":
                names = {m.name for m in modules()}
                resolved = target if target in names else target.rpartition(".")[0]
                if resolved in PACKAGES:
                    continue
                if not any(_below(resolved, allowed) for allowed in rule):
                    wrong.append(f"{module.name} -> {target}")
    assert not wrong, "\n".join(wrong)


def test_jobs_and_launchers_import_only_the_standard_library_submitit_and_yaml() -> None:
    allowed = set(sys.stdlib_module_names) | {"jobs", "launchers", "submitit", "yaml"}
    for module in modules("jobs", "launchers"):
        foreign = {name.split(".")[0] for name in imports(module)} - allowed
        assert not foreign, f"{module.name} imports {foreign}"


def test_there_is_no_import_cycle() -> None:
    names = {m.name for m in modules()}
    graph = {
        m.name: {
            t if t in names else t.rpartition(".")[0]
            for t in imports(m, top_level_only=True)
            if t in names or t.rpartition(".")[0] in names
        }
        - {m.name}
        for m in modules()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        state[name] = 1
        for target in graph.get(name, ()):
            if state.get(target) == 1:
                raise AssertionError(" -> ".join([*trail, name, target]))
            if target not in state:
                visit(target, [*trail, name])
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, [])


def test_wrapped_packages_are_imported_only_where_they_are_wrapped() -> None:
    for module in modules():
        for name in imports(module):
            package = name.split(".")[0]
            if package in WRAPPED:
                assert module.name in WRAPPED[package], f"{module.name} imports {package}"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import jobs.spec, jobs.cluster, jobs.run_folder", "torch numpy submitit pandas"),
        ("import egovl.recipe", "torch numpy transformers timm pandas decord"),
        ("import egovl.tables", "torch numpy transformers timm pandas decord"),
        ("import egovl.models.dual_encoder, egovl.tasks.contrastive", "transformers timm pandas"),
        ("import egovl.run", "transformers timm pandas"),
    ],
)
def test_nothing_heavy_is_imported_where_it_is_not_needed(code: str, forbidden: str) -> None:
    check = f"{code}\nimport sys\nprint([m for m in {forbidden.split()!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", f"{code} imports {done.stdout.strip()}"
