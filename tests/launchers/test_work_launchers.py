"""Launchers of finetuning, features, preparation and suites: what they submit, and real parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.data.manifest import load_manifest
from tests.architecture.source import ROOT
from tests.egovl.data.numbered_video import write_video

DRY = ("--dry-run", "--executor", "slurm", "--cluster", "example_cpu", "--partition", "cpu")


BARE = """
model: {name: view_retriever, embed_dim: 8}
tokenizer: {name: clip_bpe, vocab_size: 1024, context_length: 24}"""


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


def test_supports_are_retrieved_in_shards(project: Path, tmp_path: Path) -> None:
    words = ("retrieve.py", "--config", "configs/debug/supports.yaml", "--checkpoint", "here")
    shown = run(project, *words, *DRY, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "egovl retrieve --config configs/debug/supports.yaml" in shown.stdout
    assert f"init.origin=auto init.file={tmp_path}/here" in shown.stdout
    shown = run(project, *words, "--shards", "2", *DRY, cwd=tmp_path)
    assert "# 2 runs" in shown.stdout and "--array=0-1" in shown.stdout
    assert "supports.shard=0" in shown.stdout and "supports.shard=1" in shown.stdout


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


def write_views(folder: Path, clips: int, width: int) -> list[str]:
    """Clips of both views with features of their own; the recipe's words that name them."""
    rng = np.random.default_rng(0)
    words = []
    for view in ("ego", "exo"):
        writer = FeatureWriter(folder / f"features_{view}", FeatureFacts(width=width))
        records = {}
        for number in range(clips):
            writer.write(f"{view}{number}", rng.normal(size=(8, width)))
            times = {"start_second": 0, "end_second": 8}
            records[str(number)] = {"vid": f"{view}{number}", "text": "#C C cuts", **times}
        (folder / f"{view}.json").write_text(json.dumps(records))
        words += [f"supports.{view}={folder / view}.json"]
        words += [f"supports.{view}_features={folder / f'features_{view}'}"]
    return words


@pytest.mark.slow
def test_two_shards_write_the_supports_of_all_ego_clips(project: Path, tmp_path: Path) -> None:
    sizes = (
        "model.video={feature_width: 16, num_frames: 8, depth: 1, heads: 2}",
        "model.text={vocab_size: 1024, context_length: 24, width: 16, heads: 2, depth: 1}",
    )
    words = [*write_views(tmp_path, 7, 16), *sizes, "supports.top=3"]
    recipe = project / "configs/debug/supports.yaml"
    # what the recipe would be evaluated on is not here
    recipe.write_text(recipe.read_text().replace("base: view_retrieval.yaml", BARE))
    out = tmp_path / "out"
    launch = ("retrieve.py", "--config", str(recipe), "--executor", "local", "--follow")
    done = run(project, *launch, "--shards", "2", *words, f"supports.out={out}")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 done" in done.stdout
    supports = json.loads((out / "SYN_config.json").read_text())
    records = json.loads((out / "SYN_instructions.json").read_text())["data"]
    assert [records[key]["image_ids"][0]["vid"] for key in supports] == [
        f"ego{k}" for k in range(7)
    ]
    for names in supports.values():
        found = {records[name]["image_ids"][0]["vid"] for name in names}
        assert len(found) == 3 and all(name.startswith("exo") for name in found)
    assert records["SYN_INS_000000"]["image_ids"][0]["end_second"] == 1.0
