"""Launches of the toy trainer on the local Slurm, 2 nodes x 2 processes, and their traces."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec, Resources
from jobs.submit import Launched, Place, launch
from tests.slurm.client import SlurmClient
from tests.slurm.waiting import wait_for

ROOT = Path(__file__).parents[2]
NUM_NODES, PROCESSES_PER_NODE = 2, 2
WORLD_SIZE = NUM_NODES * PROCESSES_PER_NODE
MODULUS = 2**31 - 1


def copy_project(folder: Path) -> Path:
    """A small project to launch from: the job side and the toy trainer."""
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "slurm" / "toy_trainer.py", folder / "toy_trainer.py")
    return folder


def expected_value(num_steps: int) -> int:
    """What the toy trainer's value is after `num_steps`, each done once and in order."""
    value = 0
    for step in range(1, num_steps + 1):
        value = (value * 31 + step * WORLD_SIZE * (WORLD_SIZE + 1) // 2) % MODULUS
    return value


@dataclass
class ToyRun:
    """One run of the toy trainer, submitted."""

    slurm: SlurmClient
    launched: Launched
    num_steps: int

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.launched.run_dir)

    @property
    def job_id(self) -> int:
        """The job that has the run now: a run that goes on may do so under a new id."""
        holder = self.folder.attempt(self.folder.latest_attempt()).holder
        known = read_json(self.folder.job_json(holder.token)) if holder else None
        return int((known or {}).get("job_id", self.launched.job_id))

    def stop_of(self, attempt: int) -> dict[str, Any]:
        """The request to stop that an attempt got."""
        return read_json(self.folder.attempt(attempt).stop_json) or {}

    def claim_of(self, attempt: int) -> dict[str, Any]:
        """Who took an attempt."""
        return read_json(self.folder.attempt(attempt).claim_json) or {}

    def steps(self, rank: int) -> list[dict[str, Any]]:
        """Lines a rank has written, in their order."""
        path = self.folder.path / "steps" / f"{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps_of(self, rank: int, attempt: int) -> list[int]:
        """Steps a rank finished in one attempt."""
        return [line["step"] for line in self.steps(rank) if line["attempt"] == attempt]

    def wait_step(self, step: int, attempt: int = 1, seconds: float = 120.0) -> None:
        """Wait until every rank has finished `step` in this attempt."""
        wait_for(
            lambda: all(
                max(self.steps_of(rank, attempt), default=0) >= step for rank in range(WORLD_SIZE)
            ),
            seconds,
            lambda: f"step {step} of attempt {attempt}; {self.trouble()}",
            pause_sec=0.05,
        )

    def wait_end(self, state: str = "done", seconds: float = 180.0) -> None:
        """Wait until the run is in a state that does not change by itself."""
        wait_for(
            lambda: self.folder.read_state().get("state") in ("done", "failed", "cancelled", state),
            seconds,
            f"the end of {self.folder.path}",
        )
        assert self.folder.read_state()["state"] == state, self.trouble()

    def trouble(self) -> str:
        """The run's state and the ends of its logs, for a message."""
        logs = sorted(self.folder.path.glob("attempts/*/logs/*.log"))
        logs += sorted(self.folder.submission.glob("*.out"))
        tails = [f"== {path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
        return "\n".join([str(self.folder.read_state()), *tails])

    def outcome(self, attempt: int) -> dict[str, Any]:
        """What was written down about an attempt's end."""
        return read_json(self.folder.attempt(attempt).outcome_json) or {}

    def assert_no_step_lost_or_repeated(self) -> None:
        """Every rank did every step once, in order, and the end value is the unbroken run's."""
        for rank in range(WORLD_SIZE):
            steps = [line["step"] for line in self.steps(rank)]
            assert steps == list(range(1, self.num_steps + 1)), f"rank {rank}: {steps}"
        self.assert_right_result()

    def assert_right_result(self) -> None:
        """The result is the unbroken run's."""
        result = read_json(self.folder.result_json)
        assert result is not None, self.trouble()
        assert result["step"] == self.num_steps
        assert result["value"] == expected_value(self.num_steps)

    def assert_right_values(self) -> None:
        """Every line that any rank wrote is the unbroken run's at that step."""
        for rank in range(WORLD_SIZE):
            for line in self.steps(rank):
                assert line["value"] == expected_value(line["step"]), (rank, line)

    def first_step_of(self, attempt: int) -> int:
        """The step that an attempt began with, on all ranks."""
        (step,) = {self.steps_of(rank, attempt)[0] for rank in range(WORLD_SIZE)}
        return step

    def commit_steps_of(self, attempt: int) -> list[int]:
        """Steps that an attempt has committed, ascending."""
        marks = [read_json(path) or {} for path in self.folder.checkpoints.glob("*/COMMIT")]
        return sorted(mark["step"] for mark in marks if mark["attempt"] == attempt)

    def assert_continued_from_last_commit(self, attempt: int) -> None:
        """An attempt began after the last COMMIT of the one before, which wrote nothing since."""
        assert self.first_step_of(attempt) == self.commit_steps_of(attempt - 1)[-1] + 1
        claimed = (read_json(self.folder.attempt(attempt).claim_json) or {})["time"]
        for rank in range(WORLD_SIZE):
            lines = [line for line in self.steps(rank) if line["attempt"] < attempt]
            assert all(line["time"] <= claimed for line in lines)


def launch_toy(
    slurm: SlurmClient,
    folder: Path,
    *arguments: str,
    num_steps: int = 200,
    partition: str = "a100",
    resume_via: str = "auto",
    preamble: tuple[str, ...] = (),
    **more: Any,
) -> ToyRun:
    """Submit the toy trainer from `folder/project`, which is made if it is not there.

    `more` are further fields of `Resources`.
    """
    project = folder / "project"
    if not project.exists():
        copy_project(project)
    resources = Resources(
        nodes=NUM_NODES,
        processes_per_node=PROCESSES_PER_NODE,
        time_limit_sec=1800,
        partition=partition,
        **more,
    )
    spec = JobSpec(
        kind="pretrain",
        name="toy",
        module="toy_trainer",
        arguments=(f"steps={num_steps}", *arguments),
        resources=resources,
        resume_via=resume_via,
    )
    place = Place(home=project, runs=folder / "runs", snapshots=folder / "snapshots")
    launched = launch(spec, Cluster("testbed", preamble=preamble), place, "slurm")
    return ToyRun(slurm, launched, num_steps)
