"""The shipped debug pipelines and a sweep through the launchers, on real mp4 files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from egovl.data.pickled import load_plain

pytestmark = [pytest.mark.slow, pytest.mark.soak]  # torch starts twenty times

PIPELINE = ("pipeline.py", "--config", "configs/pipelines/debug.yaml")


NARRATOR = ("pipeline.py", "--config", "configs/pipelines/narrator.yaml")
# few steps of small models: what is written is nonsense, but goes all the way
SMALL = (
    *(f"{stage}.model.video.depth=1" for stage in ("encoder", "filter", "pretrain", "evaluate")),
    *(f"{stage}.model.video.depth=1" for stage in ("narrator", "narrate")),
    *(f"{stage}.trainer.steps=4" for stage in ("encoder", "language", "narrator", "pretrain")),
    *(f"{stage}.optim.warmup_steps=2" for stage in ("encoder", "language", "narrator", "pretrain")),
    *("encoder.evaluate={}", "language.evaluate={}", "narrator.evaluate={}"),
    *("narrate.write.job.generation.max_new_tokens=6", "filter.write.job.best_fraction=0.4"),
)


def run(
    project: Path, launcher: str, *words: str, seconds: float = 400
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "launchers" / launcher), *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=seconds)


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


def test_the_narrator_pipeline_pretrains_on_what_its_narrator_wrote(project: Path) -> None:
    words = ("--executor", "local", "--processes", "1", "--follow", *SMALL)
    done = run(project, *NARRATOR, *words, seconds=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        path.parent.name.split(".")[1].split("-")[0]: path.parent
        for path in (project / "runs").glob("[a-z]*/narrator.*/result.json")
    }
    order = ["encoder", "language", "narrator", "narrate", "filter", "rephrase"]
    assert sorted(found) == sorted([*order, "pretrain", "evaluate"])
    written, kept, human = (
        cast("list[Any]", load_plain(found[stage] / "narrations/total.pkl"))
        for stage in ("narrate", "filter", "rephrase")
    )
    assert len(written) == len(human) == 100
    assert all(len(row[3]) == 3 for row in written)
    assert sum(len(row[3]) for row in kept) == pytest.approx(0.4 * 300, abs=1)
    by_place = {row[:3]: set(row[3]) for row in written}
    assert all(set(row[3]) <= by_place[row[:3]] for row in kept)
    config = (found["pretrain"] / "config.yaml").read_text()
    assert str(found["filter"]) in config and str(found["rephrase"]) in config
    results = [
        json.loads((found[stage] / "result.json").read_text()) for stage in ("pretrain", "evaluate")
    ]
    assert [result["step"] for result in results] == [4, 4]
    assert results[0]["metrics"] == results[1]["metrics"]


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
