from __future__ import annotations

from pathlib import Path

import pytest

from jobs.continuation import CRASH_BUDGET, continue_run, crash_streak, decide
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.stop import Stop
from jobs.verdict import Verdict

STOPPED, LOST, OPEN = Verdict("stopped", "at step 7"), Verdict("lost"), Verdict("open", "no word")


def crash(run: RunFolder, number: int, cause: str | None = "crash") -> None:
    run.claim_attempt(number, "t", number - 1)
    if cause is not None:
        write_json_atomic(run.attempt(number).outcome_json, {"cause": cause})


def commit(run: RunFolder, step: int) -> None:
    write_json_atomic(run.checkpoints / f"step-{step}" / "COMMIT", {"step": step})


@pytest.mark.parametrize(
    ("reason", "verdict", "state", "cause", "goes_on"),
    [
        (None, Verdict("done"), "done", "done", False),
        ("preempt", Verdict("done"), "done", "done", False),
        ("preempt", STOPPED, "queued", "preempt", True),
        ("preempt", OPEN, "queued", "preempt", True),
        ("timeout", STOPPED, "queued", "timeout", True),
        ("user", STOPPED, "stopped", "user", False),
        ("user", OPEN, "stopped", "user", False),
        ("cancelled", STOPPED, "cancelled", "cancelled", False),
        ("requeued", OPEN, "queued", "requeued", False),
        (None, STOPPED, "queued", "preempt", True),
        (None, OPEN, "queued", "crash", True),
        (None, LOST, "queued", "crash", True),
        ("crash", OPEN, "queued", "crash", True),
        (None, Verdict("failed", "rank 0: no"), "queued", "crash", True),
        (None, Verdict("failed", "rank 0: no", may_retry=False), "failed", "crash", False),
    ],
)
def test_what_follows_an_attempt_depends_on_its_cause(
    tmp_path: Path, reason: str | None, verdict: Verdict, state: str, cause: str, goes_on: bool
) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    decision = decide(run, 1, Stop(reason) if reason else None, verdict)
    assert (decision.state, decision.cause, decision.goes_on) == (state, cause, goes_on)


def test_crashes_without_a_new_commit_are_counted_and_end_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number in range(1, CRASH_BUDGET):
        crash(run, number)
        assert decide(run, number, None, OPEN).goes_on
    run.claim_attempt(CRASH_BUDGET, "t", 9)
    decision = decide(run, CRASH_BUDGET, None, Verdict("failed", "rank 1: out of memory"))
    assert decision.state == "failed"
    assert "3 attempts" in decision.reason
    assert "out of memory" in decision.reason


def test_new_commit_gives_the_whole_budget_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    crash(run, 1)
    crash(run, 2)
    commit(run, 10)
    crash(run, 3)
    assert crash_streak(run, 3) == 1


def test_preemption_between_crashes_neither_counts_nor_excuses(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    crash(run, 1)
    crash(run, 2, cause="preempt")
    crash(run, 3, cause=None)  # killed before it could conclude
    crash(run, 4)
    assert crash_streak(run, 4) == 3


def test_attempt_that_saved_something_itself_has_no_streak(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    crash(run, 1)
    crash(run, 2)
    crash(run, 3)
    commit(run, 5)
    assert crash_streak(run, 3) == 0
    assert decide(run, 3, None, OPEN).goes_on


def test_local_continuation_is_a_claim_that_one_wins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    node = NodeFacts(executor="local")
    assert continue_run(run, 1, node, "t") is None
    assert run.find_claim("t", 1) == 2
    assert continue_run(run, 1, node, "t") == "queued"
