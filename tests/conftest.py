"""What many tests share: a small rendered corpus, and a copy of the project that uses it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered corpus of 5 training videos (100 clips) and 5 held-out ones (200 questions)."""
    from egovl.data.prepare.configs import SyntheticConfig
    from egovl.data.prepare.synthetic import render_corpus

    out = tmp_path_factory.mktemp("corpus") / "synthetic"
    render_corpus(SyntheticConfig(train_videos=5, eval_videos=5), out, workers=2)
    return out


def copy_project(target: Path, corpus: Path) -> Path:
    """A user's checkout: the project's code and configs, with the data roots filled in."""
    for name in ("egovl", "jobs", "launchers", "configs", "slurm_templates"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", target / ".gitignore")
    paths = (target / "configs/paths.yaml").read_text().splitlines()
    paths = [f"synthetic: {corpus}" if p.startswith("synthetic:") else p for p in paths]
    (target / "configs/paths.yaml").write_text("\n".join(paths) + "\n")
    return target


@pytest.fixture
def project(tmp_path: Path, corpus: Path) -> Path:
    """A copy of the project whose data is the small corpus."""
    return copy_project(tmp_path / "project", corpus)
