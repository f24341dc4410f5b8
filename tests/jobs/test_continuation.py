from __future__ import annotations

from pathlib import Path

import pytest

from jobs.budgets import Budgets, Ended, left
from jobs.continuation import continue_run, decide
from jobs.node import NodeFacts
from jobs.outcome import ended_attempt, past_attempts
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.stop import Stop
from jobs.verdict import Verdict

STOPPED, LOST, OPEN = Verdict("stopped", "at step 7"), Verdict("lost"), Verdict("open", "no word")


def crash(run: RunFolder, number: int, cause: str | None = "crash") -> None:
    run.claim_attempt(number, "t", number - 1)
    write_json_atomic(run.attempt(number).node_json(0), {"name": "n1"})
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
        ("node_fail", OPEN, "queued", "node_fail", True),
        ("hang", OPEN, "queued", "hang", True),
        ("preflight", OPEN, "queued", "preflight", True),
        (None, STOPPED, "queued", "crash", True),
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
    stop = Stop(reason, exclude=("node1",) if reason == "preflight" else ()) if reason else None
    decision = decide(run, 1, stop, verdict)
    assert (decision.state, decision.cause, decision.goes_on) == (state, cause, goes_on)


def test_preflight_that_no_node_passes_ends_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    decision = decide(run, 1, Stop("preflight", detail="no space on any node"), OPEN)
    assert (decision.state, decision.reason) == ("failed", "no space on any node")


def test_spent_budget_ends_the_run_with_cause_and_last_words(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number in range(1, 4):
        crash(run, number)
    run.claim_attempt(4, "t", 9)
    decision = decide(run, 4, None, Verdict("failed", "rank 1: out of memory"))
    assert (decision.state, decision.cause) == ("failed", "crash")
    assert "4 attempts" in decision.reason
    assert "out of memory" in decision.reason
    assert decide(run, 4, None, LOST, Budgets(crash=4)).goes_on


def test_attempt_that_was_killed_before_it_could_conclude_counts_as_a_crash(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number, cause in enumerate(("crash", None, "preempt", "crash"), 1):
        crash(run, number, cause)
    assert left(Budgets(), past_attempts(run, 5))["crash"] == 0


def test_attempt_that_never_started_draws_on_no_budget(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    crash(run, 1)
    run.claim_attempt(2, "next", 0, by="successor")
    assert [each.cause for each in past_attempts(run, 3)] == ["crash", "never started"]


def test_launch_by_a_person_renews_the_budgets(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number in range(1, 5):
        crash(run, number)
    assert not decide(run, 4, None, LOST).goes_on
    run.claim_attempt(5, "again", 0, by="launch")
    assert decide(run, 5, None, LOST).goes_on
    assert past_attempts(run, 5) == []


def test_attempts_are_measured_between_their_commits(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    crash(run, 1, cause=None)
    commit(run, 10)
    run.claim_attempt(2, "t", 1)
    commit(run, 25)
    assert past_attempts(run, 2) == [Ended("crash", None, 10)]
    assert ended_attempt(run, 2, "timeout") == Ended("timeout", 10, 25)


def test_local_continuation_is_a_claim_that_one_wins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    node = NodeFacts(executor="local")
    assert continue_run(run, 1, node, "t") is None
    assert run.find_claim("t", 1) == 2
    assert continue_run(run, 1, node, "t") == "queued"
