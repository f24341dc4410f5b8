"""Narrating a corpus of real mp4 files: killed and stopped shards, and what a training reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.test_train import egovl

RECIPE = "configs/debug/narrate.yaml"
# random weights: what is written is nonsense, and the same every time
TINY = (
    "init=null",
    "model.video.depth=1",
    "model.video.width=32",
    "model.decoder.depth=1",
    "write.loader.eval_batch_size=5",
    "write.loader.num_workers=0",
    "write.batches_per_part=1",
    "write.job.generation.max_new_tokens=6",
)


def start(project: Path, run: Path, out: Path, shard: int) -> subprocess.Popen[bytes]:
    words = (f"write.out={out}", "write.shards=2", f"write.shard={shard}", *TINY)
    command = [sys.executable, "-m", "egovl", "narrate", "--config", RECIPE, "--run-dir", str(run)]
    return subprocess.Popen([*command, *words], cwd=project, stderr=subprocess.DEVNULL)


def wait_for_part(out: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Until the shard has written this many parts, or has ended."""
    while len(list(out.glob("records/00000-of-*/0*.jsonl"))) < count and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_and_stopped_corpus_is_that_of_an_unbroken_run(project: Path) -> None:
    whole, broken = project / "whole", project / "broken"
    for shard in (0, 1):
        assert start(project, project / f"runs/whole{shard}", whole, shard).wait() == 0
    for count, number in ((2, signal.SIGKILL), (4, signal.SIGTERM)):
        process = start(project, project / "runs/broken0", broken, 0)
        wait_for_part(broken, process, count)
        os.kill(process.pid, number)
        assert process.wait() == (-9 if number == signal.SIGKILL else 0)
        assert not (broken / "total.jsonl").exists()
    exits = sorted((project / "runs/broken0/attempts").glob("*/exit/0.json"))
    assert json.loads(exits[-1].read_text())["state"] == "stopped"
    for shard in (1, 0):
        assert start(project, project / f"runs/broken{shard}", broken, shard).wait() == 0
    lines = (broken / "total.jsonl").read_text().splitlines()
    assert lines == (whole / "total.jsonl").read_text().splitlines()
    assert len(lines) == 100
    assert all(len(json.loads(line)["text"]) == 3 for line in lines)
    assert (broken / "total.pkl").read_bytes() == (whole / "total.pkl").read_bytes()


@pytest.mark.soak
def test_the_list_of_a_narrator_is_pretrained_on_after_a_filter(project: Path) -> None:
    words = ("--config", RECIPE, "--run-dir", project / "runs/narrate", *TINY)
    assert egovl(project, "narrate", *words, "write.job.uncovered={min_sec: 0.2}").returncode == 0
    listed = project / "runs/narrate/narrations/total.jsonl"
    clips = [json.loads(line) for line in listed.read_text().splitlines()]
    assert all(0 < clip["end_sec"] - clip["start_sec"] <= 4 for clip in clips)
    small = ("model.video.depth=1", "model.text.depth=1")
    done = egovl(
        project,
        *("filter", "--config", "configs/debug/filter.yaml", "--run-dir", project / "runs/filter"),
        *("init=null", f"write.dataset.annotations=[{listed}]", "write.job.best_fraction=0.4"),
        *small,
    )
    assert done.returncode == 0, done.stderr
    kept = [
        json.loads(line)
        for line in (project / "runs/filter/narrations/total.jsonl").read_text().splitlines()
    ]
    texts = sum(len(clip["text"]) for clip in kept)
    assert texts == pytest.approx(0.4 * 3 * len(clips), abs=3)
    mixed = project / "runs/filter/narrations/total.pkl"
    done = egovl(
        project,
        *("train", "--config", "configs/debug/mix.yaml", "--run-dir", project / "runs/mix"),
        *(f"train.dataset.pseudo=[{mixed}]", "evaluate={}", "trainer.steps=2", *small),
        *("optim.warmup_steps=1", "train.loader.batch_size=16"),
    )
    assert done.returncode == 0, done.stderr
