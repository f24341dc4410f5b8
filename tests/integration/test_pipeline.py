"""The shipped debug pipeline and a sweep through the launchers, on real mp4 files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.soak]  # torch starts ten times

PIPELINE = ("pipeline.py", "--config", "configs/pipelines/debug.yaml")


def run(project: Path, launcher: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "launchers" / launcher), *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=400)


def test_the_debug_pipeline_evaluates_what_it_has_trained(project: Path) -> None:
    words = ("--executor", "local", "--processes", "1", "pretrain.trainer.steps=4", "--follow")
    wrong = run(project, *PIPELINE, "pretrain.optim.lrr=1", *words)
    assert wrong.returncode == 2 and "did you mean" in wrong.stderr
    assert not (project / "runs" / "pretrain").exists()
    first = run(project, *PIPELINE, *words)
    assert first.returncode == 0, first.stdout + first.stderr
    results = [
        json.loads(next((project / "runs" / kind).glob("debug.*/result.json")).read_text())
        for kind in ("pretrain", "evaluate")
    ]
    assert [result["step"] for result in results] == [4, 4]
    assert results[0]["metrics"] == results[1]["metrics"]
    again = run(project, *PIPELINE, *words)
    assert again.returncode == 0
    assert len(list((project / "runs").glob("[a-z]*/debug.*"))) == 2
    shown = run(project, *PIPELINE, "--status").stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["pretrain", "done"], ["evaluate", "done"]]
    collected = run(project, "collect_results.py", "--name", "debug").stdout
    assert "debug.pretrain" in collected and "debug.evaluate" in collected


def test_the_best_of_a_swept_stage_is_what_the_next_one_evaluates(project: Path) -> None:
    words = ("pipeline.py", "--config", "configs/pipelines/debug_sweep.yaml")
    flags = ("--executor", "local", "--processes", "1", "--follow")
    steps = ("pretrain.trainer.steps=4", "finetune.trainer.steps=4")
    done = run(project, *words, *steps, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {
        path.parent.resolve(): json.loads(path.read_text())
        for path in (project / "runs").glob("[a-z]*/debug_sweep.*/result.json")
    }
    tuned = {path: each for path, each in results.items() if path.parent.name == "finetune"}
    assert (len(results), len(tuned)) == (4, 2)
    (link,) = (project / "runs" / ".pipelines" / "best").iterdir()
    best = tuned[link.resolve()]["metrics"]
    name = "egomcq/inter_video"
    assert best[name] == max(each["metrics"][name] for each in tuned.values())
    (end,) = (each for path, each in results.items() if path.parent.name == "evaluate")
    assert end["metrics"] == best
    assert f"the best: {name} {best[name]:.6g}" in run(project, *words, *steps, "--status").stdout


def test_a_sweep_trains_every_member_and_refuses_a_wrong_value(project: Path) -> None:
    base = ("pretrain.py", "--config", "configs/debug/smoke.yaml", "--executor", "local")
    words = (*base, "--processes", "1", "trainer.steps=2", "--follow")
    wrong = run(project, *words, "--sweep", "seed=0,x")
    assert wrong.returncode == 2 and "seed" in wrong.stderr
    twice = run(project, *words, "--sweep", "trainer.steps=2,3")
    assert twice.returncode == 2 and "trainer.steps: both given and swept" in twice.stderr
    assert not (project / "runs" / "pretrain").exists()
    done = run(project, *words, "--sweep", "seed=0..1", "--sweep", "optim.lr=1e-4,1e-3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs: 4 queued" in done.stdout
    results = list((project / "runs" / "pretrain").glob("smoke-*/result.json"))
    configs = {(path.parent / "config.yaml").read_text() for path in results}
    assert len(results) == len(configs) == 4
