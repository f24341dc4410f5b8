"""Launchers of finetuning, features, preparation and suites: what they submit, and real parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from egovl.data.manifest import load_manifest
from tests.architecture.source import ROOT
from tests.egovl.data.numbered_video import write_video

DRY = ("--dry-run", "--executor", "slurm", "--cluster", "example_cpu", "--partition", "cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project, so that its runs are not among the user's."""
    home = tmp_path_factory.mktemp("copy") / "project"
    for folder in ("jobs", "launchers", "egovl", "configs", "slurm_templates"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def run(home: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(home / "launchers" / words[0]), *words[1:]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=cwd or home,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_finetuning_starts_from_the_checkpoint(project: Path, tmp_path: Path) -> None:
    shown = run(project, "finetune.py", "--checkpoint", "here.pt", *DRY, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "egovl train --config configs/lavila/finetune_ek100_mir_tsf_base.yaml" in shown.stdout
    assert f"init.origin=auto init.file={tmp_path}/here.pt" in shown.stdout
    assert "/finetune/" in shown.stdout


def test_features_are_extracted_in_shards_or_of_ones_own_video(project: Path) -> None:
    shown = run(project, "extract_features.py", "--shards", "3", *DRY)
    assert shown.returncode == 0, shown.stderr
    assert "# 3 runs" in shown.stdout and "--array=0-2" in shown.stdout
    for shard in range(3):
        assert f"features.shard={shard}" in shown.stdout
    own = run(project, "extract_features.py", "--video", "my video.mp4", *DRY)
    assert own.returncode == 0, own.stderr
    assert f"features.dataset.files=['{project}/my video.mp4']" in own.stdout.replace(
        "'\"'\"'", "'"
    )


def test_a_corpus_is_narrated_in_shards(project: Path, tmp_path: Path) -> None:
    words = ("narrate.py", "--config", "configs/debug/narrate.yaml", "--shards", "2", "init=null")
    shown = run(project, *words, f"write.out={tmp_path}", *DRY)
    assert shown.returncode == 0, shown.stderr
    assert "# 2 runs" in shown.stdout and "--array=0-1" in shown.stdout
    assert "write.shard=0" in shown.stdout and "write.shard=1" in shown.stdout


def test_preparation_asks_for_no_gpu_and_checks_its_words(project: Path) -> None:
    shown = run(project, "prepare_data.py", "--shards", "2", "--subset", "5", *DRY)
    assert shown.returncode == 0, shown.stderr
    assert "shard=0" in shown.stdout and "shard=1" in shown.stdout
    assert "gpus" not in shown.stdout.replace("CUDA", "")
    wrong = run(project, "prepare_data.py", "--shards", "2", "short_sdie=3", *DRY)
    assert wrong.returncode == 2 and "did you mean 'short_side'" in wrong.stderr
    alone = run(project, "prepare_data.py", "layout=file", *DRY)
    assert alone.returncode == 2 and "null with layout=file" in alone.stderr


def test_a_suite_is_one_array_of_its_benchmarks(project: Path, tmp_path: Path) -> None:
    words = ("evaluate.py", "--suite", "zero_shot", "--checkpoint", str(tmp_path / "w.pt"))
    shown = run(project, *words, *DRY)
    assert shown.returncode == 0, shown.stderr
    assert "# 5 runs" in shown.stdout and "--array=0-4" in shown.stdout
    for name in ("ek100_mir", "ek100_cls", "charades_ego", "egtea", "egomcq"):
        assert f"zero_shot.{name}-" in shown.stdout
        assert f"--only {name}" in shown.stdout or f"{name} " in shown.stdout
    wrong = run(project, "evaluate.py", "--suite", "zeroshot")
    assert wrong.returncode == 2 and "zero_shot" in wrong.stderr
    both = run(project, "evaluate.py", "--suite", "zero_shot", "--config", "x.yaml")
    assert both.returncode == 2 and "does not go with --suite" in both.stderr


@pytest.mark.slow
def test_videos_are_prepared_in_shards_and_only_what_is_missing(
    project: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"source/{name}.mp4", 40)
    (tmp_path / "source/bad.mp4").write_text("no video")
    places = [f"source={tmp_path / 'source'}", f"out={tmp_path / 'out'}", "workers=1"]
    words = ["prepare_data.py", "--executor", "local", "--shards", "2", "--follow", *places]
    first = run(project, *words, "chunk_sec=1")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "2 done" in first.stdout
    assert set(load_manifest(tmp_path / "out/manifest.jsonl")) == {"a", "b", "c"}
    [failed] = (tmp_path / "out/failed.jsonl").read_text().splitlines()
    assert json.loads(failed)["key"] == "bad"
    again = run(project, *words, "chunk_sec=1")
    assert again.returncode == 0 and "2 runs: 2 done" in again.stdout
