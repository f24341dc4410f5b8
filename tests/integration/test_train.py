"""The library by hand, under torchrun, on real mp4 files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECIPE = "configs/debug/smoke.yaml"


def egovl(project: Path, *words: object, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m"]
    if ranks:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [*start, "egovl", *map(str, words)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)


def records(run: Path, kind: str) -> list[dict[str, object]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["kind"] == kind]


def losses(run: Path) -> dict[object, object]:
    return {record["step"]: record["loss"] for record in records(run, "train")}


@pytest.mark.slow
def test_training_on_mp4_files_stopped_and_resumed_equals_the_unbroken_run(project: Path) -> None:
    whole, broken = project / "runs/whole", project / "runs/broken"
    done = egovl(project, "train", "--config", RECIPE, "--run-dir", whole, ranks=2)
    assert done.returncode == 0, done.stderr
    first = egovl(
        project, "train", "--config", RECIPE, "--run-dir", broken, "trainer.steps=5", ranks=2
    )
    assert first.returncode == 0, first.stderr
    (broken / "result.json").unlink()
    # the number of loading processes changes nothing
    second = egovl(
        project,
        *("train", "--config", RECIPE, "--run-dir", broken, "train.loader.num_workers=0"),
        ranks=2,
    )
    assert second.returncode == 0, second.stderr
    assert list(losses(whole)) == list(range(1, 13))
    same_schedule = {step: loss for step, loss in losses(broken).items() if step <= 3}
    assert same_schedule == {step: losses(whole)[step] for step in same_schedule}
    result = json.loads((whole / "result.json").read_text())
    assert result["step"] == 12
    assert set(result["metrics"]) == {"egomcq/inter_video", "egomcq/intra_video"}


@pytest.mark.slow
def test_the_egomcq_curve_shows_in_tensorboard_and_the_weights_can_be_shared(project: Path) -> None:
    run = project / "runs/one"
    done = egovl(project, "train", "--config", RECIPE, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    curve = [event.step for event in events.Scalars("eval/egomcq/inter_video")]
    assert curve == [6, 12]
    assert len(events.Scalars("train/loss")) == 12
    out = project / "model.safetensors"
    assert egovl(project, "export", "--run-dir", run, "--out", out).returncode == 0
    by_origin = []
    for file in (run, out):
        target = project / "runs" / file.stem
        done = egovl(
            project,
            *("eval", "--config", RECIPE, "--run-dir", f"{target}-eval"),
            f"init={{origin: egovl, file: {file}}}",
        )
        assert done.returncode == 0, done.stderr
        by_origin.append(json.loads(Path(f"{target}-eval/result.json").read_text())["metrics"])
    trained = json.loads((run / "result.json").read_text())["metrics"]
    assert by_origin == [trained, trained]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "did you mean 'lr'"),
        ("model.name=dual_encodr", "did you mean 'dual_encoder'"),
        ("train.dataset.name=egoclp", "did you mean 'egoclip'"),
        ("trainer.precision=fp8", "precision"),
        ("train.dataset.video_root=$vidoes/x", "paths.yaml"),
    ],
)
def test_a_wrong_recipe_ends_with_2_and_names_the_closest_word(
    project: Path, override: str, message: str
) -> None:
    done = egovl(project, "train", "--config", RECIPE, "--run-dir", project / "runs/x", override)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "runs/x").exists()


def test_check_refuses_a_recipe_whose_files_are_not_there(project: Path) -> None:
    whole = egovl(project, "check", "--config", RECIPE)
    assert whole.returncode == 0, whole.stderr
    assert "precision: fp32" in whole.stdout
    done = egovl(project, "check", "--config", "configs/lavila/pretrain_tsf_base.yaml")
    assert done.returncode == 2
    for place in ("init.file", "train.dataset.video_root", "evaluate.egomcq.dataset.annotations"):
        assert f"{place}: " in done.stderr
    assert "configs/paths.yaml" in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.dataset.video_root=nowhere", "video_root"),
        ("train.dataset.annotations=nowhere.csv", "nowhere.csv"),
        ("init={origin: clip, file: ViT.pt}", "download the clip weights"),
        ("train.loader.batch_size=4096", "lower train.loader.batch_size"),
    ],
)
def test_missing_data_is_named_with_the_next_step_and_leaves_an_exit_file(
    project: Path, override: str, message: str
) -> None:
    run = project / "runs/x"
    done = egovl(project, "train", "--config", RECIPE, "--run-dir", run, override)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((run / "attempts/1/exit/0.json").read_text())
    assert record["state"] == "failed"
    assert message in record["message"]
