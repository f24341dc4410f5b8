"""What is said of a run, by its own words and the queue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.judgement import Judgement, is_over, judge_by_queue, judge_gone, judge_here, needs_queue
from jobs.ledger import record_job
from jobs.node import process_start
from jobs.queue_view import CallBudget, Queue, is_held_back
from jobs.run_facts import RunFacts, read_facts, read_last_step
from jobs.run_folder import RunFolder, create_json
from jobs.slurm import QueuedJob
from jobs.stop import Stop
from tests.jobs.launched_runs import (
    commit,
    make_launched,
    queued_job,
    tag,
    token_of,
    train_lines,
    write,
)

NAME = "pretrain/base-0a1b2c3d"


def facts_of(folder: RunFolder) -> RunFacts:
    facts = read_facts(str(folder.path), folder.path.parent.name, folder.path.name)
    assert facts is not None
    return facts


def queue_of(*jobs: QueuedJob) -> Queue:
    return Queue({job.job_id: job for job in jobs}, {job.comment: job for job in jobs})


@pytest.mark.parametrize(
    ("written", "slurm", "state"),
    [
        ("queued", "PENDING", "queued"),
        ("queued", "RUNNING", "running"),
        ("queued", "COMPLETING", "queued"),  # its requeue is under way
        ("running", "RUNNING", "running"),
        ("running", "COMPLETING", "running"),
        ("running", "PENDING", "queued"),  # Slurm has put it back by itself
        ("waiting", "PENDING", "waiting"),
        ("running", "COMPLETED", "lost"),
        ("running", "NODE_FAIL", "lost"),
        ("running", "CANCELLED", "cancelled"),
        ("queued", "CANCELLED", "cancelled"),
    ],
)
def test_a_run_that_says_it_goes_on_is_believed_only_with_its_job(
    tmp_path: Path, written: str, slurm: str, state: str
) -> None:
    facts = facts_of(make_launched(tmp_path, NAME, written, "7"))
    assert needs_queue(facts)
    assert judge_by_queue(facts, queue_of(queued_job("7", slurm))).state == state


@pytest.mark.parametrize("written", ["done", "failed", "stopped", "cancelled"])
def test_an_end_that_was_written_down_counts_whatever_the_queue_says(
    tmp_path: Path, written: str
) -> None:
    facts = facts_of(make_launched(tmp_path, NAME, written, "7", cause="crash", reason="x"))
    assert not needs_queue(facts)
    assert judge_here(facts).state == written


def test_an_end_of_the_attempt_before_does_not_count_for_the_one_that_was_taken_since(
    tmp_path: Path,
) -> None:
    folder = make_launched(tmp_path, NAME, "failed", "7")
    assert folder.claim_attempt(2, "new", 0)
    record_job(folder, "new", "8", "slurm")
    facts = facts_of(folder)
    assert (facts.attempt, facts.job_id) == (2, "8")
    assert needs_queue(facts)
    assert judge_by_queue(facts, queue_of(queued_job("8", "PENDING"))).state == "queued"


def test_a_run_without_its_job_is_lost_and_says_what_is_saved(tmp_path: Path) -> None:
    folder = make_launched(tmp_path, NAME, "running", "7")
    assert judge_by_queue(facts_of(folder), Queue()) == Judgement(
        "lost", "", "gone without an end mark, nothing saved"
    )
    commit(folder, 40)
    assert judge_gone(facts_of(folder), "NODE_FAIL") == Judgement(
        "lost", "node_fail", "ended as NODE_FAIL, saved at step 40"
    )


@pytest.mark.parametrize(
    ("reason", "state"), [("user", "stopped"), ("cancelled", "cancelled"), ("preempt", "lost")]
)
def test_a_stop_that_a_person_asked_for_is_no_loss(tmp_path: Path, reason: str, state: str) -> None:
    folder = make_launched(tmp_path, NAME, "running", "7")
    create_json(folder.attempt(1).stop_json, Stop(reason, None, "user").to_json())
    assert judge_by_queue(facts_of(folder), Queue()).state == state


def test_a_job_that_nobody_wrote_down_is_found_by_its_tag_and_adopted(tmp_path: Path) -> None:
    folder = make_launched(tmp_path, NAME, "queued")
    facts = facts_of(folder)
    assert (facts.job_id, facts.token) == ("", token_of(NAME))
    found = judge_by_queue(facts, queue_of(queued_job("9", "PENDING", comment=tag(NAME))))
    assert found.state == "queued"
    assert facts_of(folder).job_id == "9"


def test_a_launch_that_died_before_the_queue_is_lost(tmp_path: Path) -> None:
    facts = facts_of(make_launched(tmp_path, NAME, "queued"))
    word = judge_by_queue(facts, Queue())
    assert (word.state, word.reason) == (
        "lost",
        "its launch never reached the queue, nothing saved",
    )


def test_a_launch_under_way_is_queued(tmp_path: Path) -> None:
    folder = make_launched(tmp_path, NAME, "queued")
    with subprocess.Popen(["/bin/sleep", "30"]) as other:
        claim = {"token": token_of(NAME), "restart": 0, "host": os.uname().nodename}
        write(folder.attempt(1).claim_json, {**claim, "pid": other.pid, "time": 0})
        assert judge_by_queue(facts_of(folder), Queue()).reason == "being submitted"
        other.kill()


def test_a_local_run_lives_with_its_process(tmp_path: Path) -> None:
    folder = make_launched(tmp_path, NAME, "running", str(os.getpid()), executor="local")
    job = {"job_id": str(os.getpid()), "executor": "local", "host": os.uname().nodename}
    write(folder.job_json(token_of(NAME)), {**job, "process_start": process_start(os.getpid())})
    assert not needs_queue(facts_of(folder))
    assert judge_here(facts_of(folder)).state == "running"
    write(folder.job_json(token_of(NAME)), {**job, "process_start": 1})
    assert judge_here(facts_of(folder)).state == "lost"


def test_members_of_an_array_are_told_apart(tmp_path: Path) -> None:
    facts = facts_of(make_launched(tmp_path, NAME, "queued", "12_3"))
    assert judge_by_queue(facts, queue_of(queued_job("12_3", "PENDING"))).state == "queued"
    assert judge_by_queue(facts, queue_of(queued_job("12_4", "PENDING"))).state == "lost"
    # an array cancelled before its members started is one job for Slurm
    assert judge_by_queue(facts, queue_of(queued_job("12", "CANCELLED"))).state == "cancelled"


def test_facts_are_the_run_folders_own(tmp_path: Path) -> None:
    """The fast reader spells paths by itself: they are those of `RunFolder`."""
    folder = RunFolder(tmp_path / "pretrain" / "x")
    create_json(folder.run_json, {"schema": 1})
    assert facts_of(folder).attempt == 0
    assert folder.claim_attempt(1, "t", 0)
    record_job(folder, "t", "7", "slurm")
    facts = facts_of(folder)
    assert (facts.attempt, facts.token, facts.job_id, facts.executor) == (1, "t", "7", "slurm")
    folder.write_state("failed", attempt=1, job_id="7", executor="slurm", cause="crash")
    assert is_over(facts_of(folder))
    assert facts_of(folder).owner == os.getuid()
    assert read_facts(str(tmp_path / "pretrain"), "", "") is None


def test_the_last_step_is_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    folder = make_launched(tmp_path, NAME)
    train_lines(folder, range(1, 2000))
    with folder.metrics_jsonl.open("a") as file:
        file.write('{"kind": "eval", "step": 1999, "name": "mcq", "metrics": {}}\n{"kind": "tr')
    assert read_last_step(str(folder.path))["step"] == 1999
    assert read_last_step(str(tmp_path)) == {}


def test_only_a_requeued_job_is_held_back() -> None:
    assert is_held_back(queued_job("1", "PENDING", "BeginTime"))
    assert not is_held_back(queued_job("1", "PENDING", "Priority"))
    assert not is_held_back(queued_job("1", "RUNNING", "BeginTime"))


def test_no_more_than_two_calls_a_minute() -> None:
    budget = CallBudget()
    assert [budget.take() for _ in range(4)] == [True, True, False, False]


def test_looking_at_runs_does_not_import_what_a_launch_needs() -> None:
    code = "import jobs.status, jobs.status_table, sys; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("yaml", "submitit", "torch", "'ctypes'"):
        assert heavy not in done.stdout


def test_an_attempt_whose_job_is_still_to_be_submitted_by_the_one_before_is_queued(
    tmp_path: Path,
) -> None:
    folder = make_launched(tmp_path, NAME, "queued")
    claim = {"token": token_of(NAME), "restart": 0, "host": "node1", "pid": 1, "time": 0}
    write(folder.attempt(1).claim_json, {**claim, "after": "6"})
    word = judge_by_queue(facts_of(folder), queue_of(queued_job("6", "COMPLETING")))
    assert (word.state, word.reason) == ("queued", "goes on after job 6")
    assert judge_by_queue(facts_of(folder), Queue()).state == "lost"
