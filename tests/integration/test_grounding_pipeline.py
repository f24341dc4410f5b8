"""The grounding pipeline as shipped: from a bare corpus to the file of answers, in a few steps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from egovl.data.datasets.nlq_rows import read_rows
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic_plan import plan_videos
from egovl.data.prepare.synthetic_queries import QueryCounts, write_queries
from egovl.tasks.grounding_submission import read_submission
from jobs.pipeline import load_pipeline
from tests.architecture.source import ROOT
from tests.conftest import copy_project
from tests.integration.grounding import of_seeds

COUNTS = QueryCounts(train=3, narrated=2, val=2, test=2)
STAGES = ("tower", "features", "pretrain", "finetune", "submission")
TRAININGS = ("tower", "pretrain", "finetune")
KINDS = ("pretrain", "extract", "pretrain", "finetune", "evaluate")


@pytest.fixture
def asked_project(tmp_path: Path, corpus: Path) -> Path:
    """A checkout whose corpus has clips of minutes with questions, as `prepare` leaves them."""
    own = tmp_path / "synthetic"
    own.mkdir()
    (own / "videos").symlink_to(corpus / "videos")
    for name in ("egoclip.csv", "egomcq.json"):
        shutil.copy(corpus / name, own / name)
    config = SyntheticConfig(train_videos=5, eval_videos=5)  # as the fixture renders it
    nlq = write_queries(plan_videos(config), own, config.seed, COUNTS)
    project = copy_project(tmp_path / "project", own)
    words = ("--annotations", str(nlq), "--egoclip", str(nlq / "egoclip.csv"), "--out", str(nlq))
    python(project, "-m", "egovl", "prepare", "queries", *words)
    return project


def python(project: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=project, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_seed_is_finetuned_after_its_own_narrations_and_the_same_from_scratch(
    tmp_path: Path,
) -> None:
    shipped = yaml.safe_load((ROOT / "configs/pipelines/grounding.yaml").read_text())["stages"]
    file = tmp_path / "seeds.yaml"
    file.write_text(yaml.safe_dump({"stages": of_seeds(shipped, (0, 7))}))
    pipeline = load_pipeline(file)
    assert len(pipeline.stages) == 2 + 2 * 3
    for seed in (0, 7):
        first, tuned, scratch = (
            pipeline.stage(f"{name}{seed}") for name in ("pretrain", "finetune", "scratch")
        )
        assert first.after == ("features",)
        assert set(tuned.after) == {"tower", "features", first.name}
        assert set(scratch.after) == {"tower", "features"}
        begin = {"init.origin=egovl", f"init.file=${{{first.name}.run}}"}
        assert set(tuned.overrides) - set(scratch.overrides) == begin
        assert set(scratch.overrides) < set(tuned.overrides)
        assert all(f"seed={seed}" in each.overrides for each in (first, tuned, scratch))
    given = of_seeds(shipped, (0, 7), features=tmp_path / "made")
    file.write_text(yaml.safe_dump({"stages": given}))
    alone = load_pipeline(file)
    assert len(alone.stages) == 2 * 3 and not alone.stage("scratch7").after
    assert f"train.dataset.features={tmp_path}/made/features" in alone.stage("pretrain7").overrides


@pytest.mark.slow
@pytest.mark.soak  # torch starts a dozen times
@pytest.mark.timeout(3600)
def test_the_grounding_pipeline_goes_from_videos_to_a_submission(asked_project: Path) -> None:
    steps = [f"{stage}.trainer.steps=3" for stage in TRAININGS]
    steps += [f"{stage}.trainer.eval_every=3" for stage in TRAININGS]
    words = ("launchers/pipeline.py", "--config", "configs/pipelines/grounding.yaml", *steps)
    words += ("tower.optim.warmup_steps=1", "tower.evaluate={}", "--executor", "local")
    words += ("pretrain.optim.warmup_steps=1", "finetune.optim.warmup_steps=1")
    words += ("finetune.train.loader.batch_size=4", "--processes", "1")  # of 13 questions
    told = python(asked_project, *words, "finetune.model.widht=8", status=2)
    assert "did you mean 'width'" in told
    planned = python(asked_project, *words, "--dry-run")
    assert [line.split()[0] for line in planned.splitlines() if line[:1] not in " p"] == [
        stage for stage in STAGES if stage != "pretrain"
    ]
    runs = asked_project / "runs"
    assert not list(runs.glob("*/grounding.*"))
    python(asked_project, *words, "--follow")
    found = {
        stage: next((runs / kind).glob(f"grounding.{stage}-*"))
        for stage, kind in zip(STAGES, KINDS, strict=True)
    }
    results = {s: json.loads((run / "result.json").read_text()) for s, run in found.items()}
    assert [results[stage]["step"] for stage in STAGES] == [3, 0, 3, 3, 3]
    assert results["features"]["metrics"] == {"videos": 9.0, "failed": 0.0}
    assert "nlq/R1_0.5" in results["finetune"]["metrics"]
    assert results["submission"]["metrics"] == {"nlq/answered": 100.0}
    nlq = asked_project.parent / "synthetic/nlq"
    asked = {row.query_id for row in read_rows(nlq / "nlq_test_unannotated.json")}
    answers = read_submission(runs / "nlq_test_predictions.json")
    assert {answer.name for answer in answers} == asked and len(answers) == len(asked) > 5
    # what was trained answers a question about a video of one's own, with the tower it knows of
    video = next((nlq / "videos").glob("*.mp4"))
    ask = ("--query", "Where did I handle the red box?", "--out", str(runs / "page.html"))
    checkpoint = ("--checkpoint", str(found["finetune"]))
    python(asked_project, "-m", "egovl", "ground", "--video", str(video), *checkpoint, *ask)
    assert (runs / "page.html").stat().st_size > 1000
