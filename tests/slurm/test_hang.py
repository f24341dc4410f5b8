"""A rank that sleeps for ever: the stacks of all ranks, one restart, and then the run's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.health import WatchdogLimits
from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import NUM_NODES, WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]

LIMITS = WatchdogLimits(step_min_sec=4, start_sec=120, save_sec=60, native_sec=0)
SAVE_SEC = 6  # longer than a step may take
HUNG_RANK = 2
HANG = (f"hang_rank={HUNG_RANK}", "hang_at=18", "save_every=10", f"save_sec={SAVE_SEC}")


def wait_for_attempt(run: ToyRun, attempt: int, step: int) -> None:
    """Wait until all ranks have finished `step` in a later attempt."""

    def is_there() -> bool:
        steps = [max(run.steps_of(rank, attempt), default=0) for rank in range(WORLD_SIZE)]
        return min(steps) >= step

    wait_for(is_there, 240.0, f"step {step} of attempt {attempt}; {run.trouble()}")


def assert_all_stacks(run: ToyRun, attempt: int) -> None:
    folder = run.folder.attempt(attempt)
    for rank in range(WORLD_SIZE):
        text = folder.stack_text(rank).read_text()
        assert f"rank {rank}, process" in text
        assert "(most recent call first)" in text, text
        assert ("in sleep_for_ever" in text) == (rank == HUNG_RANK), text
        assert ("in all_reduce" in text) == (rank != HUNG_RANK), text
        assert "thread" in text.partition("== Linux ==")[2]


def seconds_to_restart(run: ToyRun) -> dict[str, float]:
    """What went by between the last step of attempt 1 and the claim of the next one."""
    folder = run.folder.attempt(1)
    last = max(line["time"] for line in run.steps(0) if line["attempt"] == 1)
    markers = [read_json(folder.stacks / f"node.{node}.json") or {} for node in range(NUM_NODES)]
    claimed = (read_json(run.folder.attempt(2).claim_json) or {})["time"]
    tripped = min(marker["started"] for marker in markers)
    return {
        "silence until the trip": tripped - last,
        "stacks": max(marker["ended"] for marker in markers) - tripped,
        "trip to the claim of the next attempt": claimed - tripped,
    }


def test_hang_is_explained_restarted_once_and_the_second_ends_the_run(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    options = (*HANG, "step_sec=0.3", "hang_attempts=2")
    run = launch_toy(slurm, tmp_path, *options, num_steps=40, watchdog=LIMITS)
    wait_for_attempt(run, 2, 11)
    # the save in between, longer than a step may take, was none
    assert run.steps_of(HUNG_RANK, 1) == list(range(1, 18))
    stop = read_json(run.folder.attempt(1).stop_json) or {}
    assert (stop["reason"], stop["source"]) == ("hang", "watchdog")
    assert "s in phase step after step 17 (limit 4 s)" in stop["detail"]
    assert_all_stacks(run, 1)
    assert (run.outcome(1)["state"], run.outcome(1)["cause"]) == ("queued", "hang")
    assert run.first_step_of(2) == 11  # the COMMIT of the save
    run.wait_end("failed")
    assert_all_stacks(run, 2)
    assert run.folder.attempt_numbers() == [1, 2]
    state = run.folder.read_state()
    assert state["cause"] == "hang"
    assert f"; rank {HUNG_RANK} at " in state["reason"]
    assert "sleep_for_ever; rank 0, 1, 3 at " in state["reason"]
    names = slurm.settings.node_names
    wait_for(lambda: not any(slurm.processes_on(name) for name in names), 90.0, "no process left")
    print({what: round(seconds, 2) for what, seconds in seconds_to_restart(run).items()})


@pytest.mark.soak
def test_run_that_hangs_once_is_restarted_and_comes_to_the_right_end(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    run = launch_toy(slurm, tmp_path, *HANG, "step_sec=0.3", num_steps=25, watchdog=LIMITS)
    wait_for_attempt(run, 2, 11)
    run.wait_end()
    assert run.outcome(1)["cause"] == "hang"
    run.assert_continued_from_last_commit(2)
    run.assert_right_values()
    run.assert_right_result()
