from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader, load

from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.trainer import Trainer, TrainPlan
from tests.architecture.source import ROOT
from tests.egovl.engine import toy_run

pytestmark = pytest.mark.slow  # real torchrun processes, each imports torch

Curve = dict[int, tuple[float, float, float]]


def train(run_dir: Path, world_size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    run_dir.mkdir(exist_ok=True)
    command = [sys.executable, "-m"]
    if world_size > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}", "-m"]
    command += ["tests.egovl.engine.toy_run", "--run-dir", str(run_dir), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def curve(run_dir: Path) -> Curve:
    """Of each step the highest attempt's numbers, exactly as written."""
    found: dict[int, tuple[int, tuple[float, float, float]]] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "train" and record["attempt"] >= found.get(record["step"], (0,))[0]:
            numbers = record["loss"], record["output"], record["lr"]
            found[record["step"]] = record["attempt"], numbers
    return {step: numbers for step, (_, numbers) in sorted(found.items())}


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    path = run_dir / "ckpt" / f"step-{step}"
    stored = FileSystemReader(str(path)).read_metadata().state_dict_metadata
    state = {k: torch.empty(v.size, dtype=v.properties.dtype) for k, v in stored.items()}
    load(state, storage_reader=FileSystemReader(str(path)), no_dist=True)
    return state


def assert_equal_runs(one: Path, other: Path, steps: int) -> None:
    assert list(curve(one)) == list(range(1, steps + 1))
    assert curve(one) == curve(other)
    a, b = weights(one, steps), weights(other, steps)
    assert a.keys() == b.keys()
    assert any("exp_avg" in key for key in a)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    done = train(run, 4)
    assert done.returncode == 0, done.stderr
    return run


# a background save of every step: a stop always finds the one of its own step under way
ALWAYS_SAVING = json.dumps({"save_every": 1, "async_save": True})


def stop_after(run: Path, attempt: int, at: int, how: str) -> int:
    """Train until all ranks agree to stop; returns the step they stopped at."""
    options = ("--attempt", attempt, "--at", at, "--how", how, "--trainer", ALWAYS_SAVING)
    done = train(run, 4, *options)
    assert done.returncode == 0, done.stderr
    exits = [json.loads(f.read_text()) for f in (run / f"attempts/{attempt}/exit").iterdir()]
    assert len(exits) == 4
    assert {e["state"] for e in exits} == {"stopped"}
    [stopped] = {e["step"] for e in exits}
    assert max(curve(run)) == stopped
    return stopped


def test_a_twice_stopped_and_resumed_run_equals_the_unbroken_one_bit_for_bit(
    tmp_path: Path, unbroken: Path
) -> None:
    run = tmp_path / "run"
    first = stop_after(run, 1, at=3, how="file")
    assert 3 <= first <= 5
    second = stop_after(run, 2, at=2, how="signal")
    assert first + 2 <= second <= first + 4
    last = train(run, 4, "--attempt", 3)
    assert last.returncode == 0, last.stderr
    assert_equal_runs(run, unbroken, 12)


def test_background_saves_and_a_killed_rank_lose_nothing_before_the_last_commit(
    tmp_path: Path, unbroken: Path
) -> None:
    run, options = tmp_path / "run", json.dumps({"save_every": 2, "async_save": True})
    first = train(run, 4, "--at", 9, "--how", "kill", "--trainer", options)
    assert first.returncode != 0
    kept = sorted(f.name for f in (run / "ckpt").glob("step-*"))
    assert kept, first.stderr
    second = train(run, 4, "--attempt", 2, "--trainer", options)
    assert second.returncode == 0, second.stderr
    assert_equal_runs(run, unbroken, 12)


def test_evaluations_count_each_sample_once_and_are_not_lost_by_a_stop(
    tmp_path: Path, unbroken: Path
) -> None:
    def evaluations(run: Path) -> dict[int, dict[str, float]]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return {r["step"]: r["metrics"] for r in lines if r["kind"] == "eval"}

    assert list(evaluations(unbroken)) == [4, 8, 12]
    assert all(m["samples"] == 21 for m in evaluations(unbroken).values())
    run = tmp_path / "run"
    train(run, 2, "--at", 4)  # agreed on while the evaluation of step 4 runs, or just after
    second = train(run, 2, "--attempt", 2)
    assert second.returncode == 0, second.stderr
    assert list(evaluations(run)) == [4, 8, 12]


def test_another_number_of_ranks_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(run, 2, "--at", 5).returncode == 0
    second = train(run, 1, "--attempt", 2)
    assert second.returncode == 0, second.stderr
    assert list(curve(run)) == list(range(1, 13))


def test_a_sharded_run_resumes_bit_for_bit_and_replicated_ranks_go_on_from_it(
    tmp_path: Path,
) -> None:
    sharded = ("--trainer", json.dumps({"parallel": "fsdp2", "accumulate": 2}))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = train(whole, 2, *sharded)
    assert done.returncode == 0, done.stderr
    assert train(broken, 2, *sharded, "--at", 5).returncode == 0
    shutil.copytree(broken, tmp_path / "copy")
    second = train(broken, 2, *sharded, "--attempt", 2)
    assert second.returncode == 0, second.stderr
    assert_equal_runs(whole, broken, 12)
    third = train(tmp_path / "copy", 1, "--attempt", 2)
    assert third.returncode == 0, third.stderr
    assert list(curve(tmp_path / "copy")) == list(range(1, 13))


def test_accumulated_parts_give_the_whole_batch_gradient(tmp_path: Path) -> None:
    # dropout masks differ between parts, so only the first steps' size is compared here
    for parts in (1, 2):
        options = json.dumps({"accumulate": parts})
        done = train(tmp_path / str(parts), 1, "--steps", 3, "--trainer", options)
        assert done.returncode == 0, done.stderr
    one, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert abs(one[1][0] - two[1][0]) < 0.2 * one[1][0]


def test_a_superseded_attempt_writes_nothing_more(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "attempts/2").mkdir(parents=True)
    (run / "attempts/2/claim.json").write_text("{}")
    done = train(run, 1)
    assert done.returncode != 0
    assert "attempt 2 holds this run" in done.stderr
    assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text()
    assert not list((run / "ckpt").glob("step-*")) if (run / "ckpt").exists() else True


def test_a_stop_that_waits_at_the_start_costs_nothing(tmp_path: Path, unbroken: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop-1").write_text("{}")
    assert train(run, 4).returncode == 0
    assert max(curve(run)) <= 2  # all ranks read the same answer, one step later
    assert train(run, 4, "--attempt", 2).returncode == 0
    assert_equal_runs(run, unbroken, 12)


def test_gradients_are_clipped_by_their_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 1))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    toy = toy_run.Toy(None, None, "file")
    plan = TrainPlan(
        task=toy,
        model=model,
        batches=toy_run.batches,
        global_batch=toy_run.GLOBAL_BATCH,
        total_steps=1,
        evaluations=[],
        seed=0,
    )
    optim = OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_grad_value=1e-3)
    config = TrainerConfig(steps=1, precision="fp32", async_save=False)
    device = torch.device("cpu")
    Trainer(plan, optim, config, RunFolder(tmp_path, 1), StopRequest(), device).fit()
    for name, value in model.named_parameters():
        moved = (value.detach() - before[name]).abs()
        assert moved.max() <= 1e-3 + 1e-6, name
        assert moved.max() > 0.9e-3, name
