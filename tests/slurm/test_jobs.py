"""The node agent on a real Slurm: whatever happens to it, the run goes on from its last COMMIT."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.errors import SubmitError
from jobs.run_folder import AttemptFolder, RunFolder, read_json
from jobs.spec import JobSpec, Resources
from jobs.submit import Place, launch
from tests.slurm.client import SlurmClient
from tests.slurm.waiting import wait_for

HOME = Path(__file__).resolve().parents[2]
CLUSTER = Cluster("test", executor="slurm")
PATIENCE_SEC = 120.0

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
one_tracker = pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)


class ToyRun:
    """One run of the toy trainer: two nodes with two ranks each."""

    def __init__(self, slurm: SlurmClient, folder: Path, *words: str, **resources: object) -> None:
        self.slurm = slurm
        asked = {"nodes": 2, "processes_per_node": 2, "partition": "a100", **resources}
        self.spec = JobSpec(
            kind="pretrain",
            name="toy",
            module="tests.jobs.toy_trainer",
            arguments=("train", *words),
            resources=Resources(**asked),  # type: ignore[arg-type]
        )
        self.place = Place(HOME, folder / "runs", folder / "snapshots")
        launched = launch(self.spec, CLUSTER, self.place, "slurm")
        assert launched.state == "queued"
        self.run = RunFolder(launched.run_dir)
        self.job_id = int(launched.job_id)

    def attempt(self, number: int) -> AttemptFolder:
        return self.run.attempt(number)

    def steps(self) -> list[tuple[int, int]]:
        """(attempt, step) of every logged step."""
        if not self.run.metrics_jsonl.exists():
            return []
        lines = [json.loads(each) for each in self.run.metrics_jsonl.read_text().splitlines()]
        return [(each["attempt"], each["step"]) for each in lines]

    def wait_step(self, step: int, attempt: int = 1) -> None:
        what = f"attempt {attempt} to reach step {step}"
        wait_for(
            lambda: any(a == attempt and s >= step for a, s in self.steps()), PATIENCE_SEC, what
        )

    def wait_state(self, *states: str) -> dict[str, object]:
        def state() -> dict[str, object]:
            found = self.run.read_state()
            return found if found.get("state") in states else {}

        try:
            return wait_for(state, PATIENCE_SEC, f"the run to be {states}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.run.read_state()}\n{self.output()}") from None

    def output(self) -> str:
        logs = [*self.run.submission.glob("*.out"), *self.run.attempts.glob("*/logs/*")]
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')}" for log in sorted(logs))

    def outcome(self, number: int) -> dict[str, object]:
        return read_json(self.attempt(number).outcome_json) or {}

    def agent_pid(self, node: int, attempt: int = 1) -> int:
        return int((read_json(self.attempt(attempt).node_json(node)) or {})["pid"])

    def assert_nothing_lost(self) -> None:
        assert sorted(step for _, step in self.steps()) == list(
            range(1, 1 + max(step for _, step in self.steps()))
        )

    def assert_resumed_from_commit(self, attempt: int) -> None:
        """The attempt began one step after the COMMIT that its claim names."""
        commit = (read_json(self.attempt(attempt).claim_json) or {})["commit"]
        first = min(step for each, step in self.steps() if each == attempt)
        assert first == (commit or 0) + 1


def test_preempted_run_loses_no_step_and_goes_on_by_itself(
    slurm: SlurmClient, tmp_path: Path, preempt: Callable[[int], None]
) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=60", "step_sec=0.15", "save_every=1000")
    toy.wait_step(8)
    preempt(toy.job_id)
    toy.wait_state("done")
    toy.assert_nothing_lost()
    toy.assert_resumed_from_commit(2)
    stop = read_json(toy.attempt(1).stop_json) or {}
    assert (stop["reason"], stop["source"]) == ("preempt", "slurm")
    assert toy.outcome(1)["cause"] == "preempt"
    assert toy.run.latest_attempt() == 2
    slurm.wait_state(toy.job_id, "COMPLETED")
    assert slurm.restarts(toy.job_id) == 1


@one_tracker
def test_preemption_without_grace_resumes_from_the_last_commit(
    slurm: SlurmClient, tmp_path: Path, preempt: Callable[[int], None]
) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=40", "step_sec=0.15", partition="nograce")
    toy.wait_step(8)
    preempt(toy.job_id)
    toy.wait_state("done")
    toy.assert_resumed_from_commit(2)
    assert toy.outcome(1)["cause"] == "requeued"
    assert toy.run.latest_attempt() == 2


@one_tracker
def test_killed_rank_ends_the_step_and_the_run_resumes(slurm: SlurmClient, tmp_path: Path) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=20", "step_sec=0.15", "save_every=5", "die_at=8")
    toy.wait_state("done")
    assert toy.outcome(1)["cause"] == "crash"
    assert (read_json(toy.attempt(2).claim_json) or {})["commit"] == 5
    toy.assert_resumed_from_commit(2)
    assert toy.run.latest_attempt() == 2


@one_tracker
@pytest.mark.parametrize("node", [0, 1])
def test_killed_agent_ends_the_step_and_the_run_resumes(
    slurm: SlurmClient, tmp_path: Path, node: int
) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=30", "step_sec=0.2", "save_every=5")
    toy.wait_step(7)
    os.kill(toy.agent_pid(node), signal.SIGKILL)
    toy.wait_state("done")
    assert toy.outcome(1)["cause"] == "crash"
    toy.assert_resumed_from_commit(2)
    assert toy.run.latest_attempt() == 2


@one_tracker
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_killed_slurmd_fences_the_ranks_that_outlive_it(
    slurm: SlurmClient, tmp_path: Path, node: str
) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=2000", "step_sec=0.2", "save_every=5")
    toy.wait_step(7)
    assert slurm.processes_on(node), f"{node} is not the job's"
    slurm.kill_node(node)
    for pid in slurm.processes_on("node2" if node == "node1" else "node1"):
        os.kill(pid, signal.SIGKILL)  # else they would tell the others to save and leave
    toy.wait_step(6, attempt=2)
    toy.assert_resumed_from_commit(2)
    wait_for(lambda: not slurm.processes_on(node), 30.0, f"the first attempt to leave {node}")
    attempts = [attempt for attempt, _ in toy.steps()]
    assert attempts == sorted(attempts)
    assert toy.run.latest_attempt() == 2


@one_tracker
def test_scancel_saves_and_ends_the_run(slurm: SlurmClient, tmp_path: Path) -> None:
    toy = ToyRun(slurm, tmp_path, "steps=400", "step_sec=0.15", "save_every=1000")
    toy.wait_step(8)
    slurm.cancel(toy.job_id)
    state = toy.wait_state("cancelled")
    assert toy.run.latest_attempt() == 1
    assert state["step"] == max(step for _, step in toy.steps())
    again = ToyRun(slurm, tmp_path, "steps=400", "step_sec=0.15", "save_every=1000")
    again.wait_step(int(str(state["step"])) + 1, attempt=2)
    again.assert_resumed_from_commit(2)
    assert again.job_id != toy.job_id


@one_tracker
def test_signal_before_the_agent_listens_goes_through_the_submitit_hook(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(HOLD.format(mark=str(early / "mark")))
    preamble = (f"export PYTHONPATH={early}",)
    monkeypatch.setattr(
        "tests.slurm.test_jobs.CLUSTER", Cluster("test", executor="slurm", preamble=preamble)
    )
    toy = ToyRun(slurm, tmp_path, "steps=10", "step_sec=0.1")
    wait_for((early / "mark").exists, PATIENCE_SEC, "submitit to hold the signals")
    slurm.run("scancel", "--signal=USR2", str(toy.job_id))
    toy.wait_state("done")
    claims = [read_json(toy.attempt(n).claim_json) or {} for n in toy.run.attempt_numbers()]
    assert [claim["by"] for claim in claims] == ["launch", "submitit"]
    assert [claim["restart"] for claim in claims] == [0, 1]


# In the job: what lies between submitit taking the signals and the agent taking them, made longer.
HOLD = """
import os, sys
if "submitit.core._submit" in sys.orig_argv and "SLURM_RESTART_COUNT" not in os.environ:
    import time
    from pathlib import Path
    from submitit.core.job_environment import JobEnvironment
    take_signals = JobEnvironment._handle_signals

    def hold(env, paths, delayed):
        take_signals(env, paths, delayed)
        if env.global_rank == 0:
            Path("{mark}").touch()
        time.sleep(30)

    JobEnvironment._handle_signals = hold
"""


@one_tracker
def test_unknown_partition_shows_slurms_words_and_leaves_no_folder(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    with pytest.raises(SubmitError, match="nowhere") as caught:
        ToyRun(slurm, tmp_path, partition="nowhere")
    assert "a100" in str(caught.value)
    assert not (tmp_path / "runs").exists()


@one_tracker
def test_refused_job_leaves_no_folder(slurm: SlurmClient, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="Slurm"):
        ToyRun(slurm, tmp_path, gpus_per_node=99)
    assert not list((tmp_path / "runs" / "pretrain").iterdir())
