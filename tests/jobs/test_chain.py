"""What files and stand-ins can show of runs that wait for runs; the rest: tests/slurm."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jobs import chain
from jobs.ledger import record_job
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.signals import SignalPipe
from tests.jobs.slurm_programs import SlurmPrograms, programs

__all__ = ["programs"]  # a fixture

NODE = NodeFacts(executor="slurm", job_id="20")


def make_run(folder: Path, name: str, state: str, job: str, *parents: RunFolder) -> RunFolder:
    """A run with one claimed attempt by the token `t-<name>`, known to its parents."""
    run = RunFolder(folder / "stage" / name)
    write_json_atomic(run.run_json, {"parents": [str(each.path) for each in parents]})
    run.claim_attempt(1, f"t-{name}", 0)
    record_job(run, f"t-{name}", job, "slurm")
    run.write_state(state, attempt=1, job_id=job if state not in ("waiting", "queued") else None)
    chain.line_up(run, parents)
    return run


def may_start(run: RunFolder, node: NodeFacts = NODE) -> bool:
    with SignalPipe() as signals:
        return chain.may_start(run, node, f"t-{run.path.name}", signals)


def test_the_dependency_names_the_present_jobs_of_the_parents_that_are_not_done(
    tmp_path: Path,
) -> None:
    parents = [
        make_run(tmp_path, name, state, job)
        for name, state, job in (("a", "done", "1"), ("b", "running", "2_3"), ("c", "queued", "4"))
    ]
    run = RunFolder(tmp_path / "stage" / "child")
    assert chain.line_up(run, parents) == "afterany:2_3:4"
    assert [each.path for each in chain.children_of(parents[0])] == [run.path]


def test_a_run_without_parents_or_with_done_ones_starts(tmp_path: Path) -> None:
    parent = make_run(tmp_path, "a", "done", "1")
    assert may_start(parent)
    assert may_start(make_run(tmp_path, "b", "waiting", "20", parent))


def test_a_run_whose_parent_failed_says_so_and_so_do_those_after_it(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    parent = make_run(tmp_path, "a", "failed", "1")
    parent.write_state("failed", job_id="1", reason="rank 0: no memory")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    last = make_run(tmp_path, "c", "waiting", "21", run)
    assert not may_start(run)
    for each in (run, last):
        state = each.read_state()
        assert (state["state"], state["cause"]) == ("cancelled", "parent")
        assert "stage/a is failed: rank 0: no memory" in state["reason"]
    assert (read_json(run.attempt(1).outcome_json) or {})["cause"] == "parent"
    assert programs.calls("scancel") == ["21"]  # its own job, 20, ends by itself


def test_a_run_that_is_over_takes_its_children_out_of_the_queue(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    parent = make_run(tmp_path, "a", "running", "1")
    waiting = make_run(tmp_path, "b", "waiting", "20", parent)
    begun = make_run(tmp_path, "c", "running", "21", parent)
    for state in ("running", "queued", "done"):
        parent.write_state(state)
        chain.end_children(parent)
    assert waiting.read_state()["state"] == "waiting"
    parent.write_state("stopped", reason="at step 7")
    chain.end_children(parent)
    assert waiting.read_state()["reason"] == "stage/a is stopped: at step 7"
    assert begun.read_state()["state"] == "running"
    assert programs.calls("scancel") == ["20"]


def test_children_are_repointed_with_all_their_parents(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    first = make_run(tmp_path, "a", "queued", "1")
    second = make_run(tmp_path, "b", "running", "2")
    done = make_run(tmp_path, "c", "done", "3")
    make_run(tmp_path, "d", "waiting", "20", first, done, second)
    make_run(tmp_path, "e", "done", "21", first)
    chain.repoint(first, "99")
    assert programs.calls("scontrol") == ["update JobId=20 Dependency=afterany:99:2"]


def test_a_child_queued_while_its_parent_moved_is_repointed(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    parent = make_run(tmp_path, "a", "queued", "5")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    chain.follow_up(run, "20", "afterany:4")
    assert programs.calls("scontrol") == ["update JobId=20 Dependency=afterany:5"]
    chain.follow_up(run, "20", "afterany:5")
    assert len(programs.calls("scontrol")) == 1


def test_a_run_that_is_too_early_goes_back_and_keeps_its_budgets(
    programs: SlurmPrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = make_run(tmp_path, "a", "running", "1")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    # what Slurm does to the job that asks for a requeue
    term = 'case "$*" in requeue*) kill -TERM $PPID;; esac'
    programs.answer("scontrol", f"echo 'JobId=1 JobState=RUNNING'; {term}")
    assert not may_start(run)
    calls = [call for call in programs.calls("scontrol") if "show" not in call]
    assert calls == ["requeue 20", "update JobId=20 Dependency=afterany:1"]
    assert (read_json(run.attempt(1).outcome_json) or {})["cause"] == "waiting"
    assert run.read_state()["state"] == "waiting"
    again = NodeFacts(executor="slurm", job_id="20", restart=1)
    assert not may_start(run, again)
    assert run.find_claim("t-b", 1) == 2
    parent.write_state("done")
    assert may_start(run, NodeFacts(executor="slurm", job_id="20", restart=2))


def test_where_slurm_will_not_requeue_a_run_waits_in_its_place(
    programs: SlurmPrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LOOK_SEC", 0.05)
    parent = make_run(tmp_path, "a", "running", "1")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    state = parent.state_json
    done = f"""sleep 0.2; printf '{{"state": "done"}}' > {state}.new; mv {state}.new {state}"""
    requeue = f"""case "$*" in requeue*) ( {done} ) & exit 1;; esac"""
    programs.answer("scontrol", f"echo 'JobId=1 JobState=RUNNING'; {requeue}")
    assert may_start(run)
    assert not run.attempt(1).outcome_json.exists()


def test_a_stop_while_it_waits_in_its_place_ends_the_run_with_a_reason(
    programs: SlurmPrograms, tmp_path: Path
) -> None:
    parent = make_run(tmp_path, "a", "running", "1")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    refuse = 'case "$*" in requeue*) kill -USR2 $PPID; exit 1;; esac'
    programs.answer("scontrol", f"echo 'JobId=1 JobState=RUNNING'; {refuse}")
    assert not may_start(run)
    assert "stopped while it waited: waits for stage/a" in run.read_state()["reason"]


def test_a_parent_that_is_gone_without_a_word_is_given_time_for_one(
    programs: SlurmPrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LOOK_SEC", 0.05)
    monkeypatch.setattr(chain, "WORD_PATIENCE_SEC", 0.2)
    programs.answer("scontrol", "echo 'Invalid job id' >&2; exit 1")
    parent = make_run(tmp_path, "a", "running", "1")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    assert not may_start(run)
    assert "stage/a: job 1 is gone without an end mark" in run.read_state()["reason"]


def test_without_slurms_commands_on_the_node_the_files_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    parent = make_run(tmp_path, "a", "cancelled", "7")
    parent.write_state("cancelled", job_id="another")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    assert not may_start(run)
    assert "stage/a is cancelled" in run.read_state()["reason"]


def test_other_nodes_do_as_the_first_says(
    programs: SlurmPrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LOOK_SEC", 0.05)
    parent = make_run(tmp_path, "a", "failed", "1")
    run = make_run(tmp_path, "b", "waiting", "20", parent)
    other = NodeFacts(index=1, count=2, executor="slurm", job_id="20")
    before = signal.getsignal(signal.SIGTERM)
    run.write_state("cancelled")
    assert not may_start(run, other)
    assert signal.getsignal(signal.SIGTERM) == before
    assert programs.calls("scancel") == []


def test_a_run_that_has_begun_asks_its_parents_no_more(tmp_path: Path) -> None:
    parent = make_run(tmp_path, "a", "failed", "1")
    run = make_run(tmp_path, "b", "queued", "20", parent)
    write_json_atomic(run.attempt(1).node_json(0), {"state": "ended"})
    assert may_start(run)
