"""Launches of many cheap runs on the local Slurm, and what they left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from jobs import slurm as scheduler
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec, Resources
from jobs.standing import find_standing
from jobs.submit import Place
from tests.slurm.waiting import wait_for

ROOT = Path(__file__).parents[2]
RESOURCES = Resources(time_limit_sec=1800, partition="a100")


def make_place(folder: Path) -> Place:
    """A project with the job side, the toy member and the stand-in for torchrun."""
    project = folder / "project"
    if not project.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "jobs", project / "jobs", ignore=ignored)
        here = ROOT / "tests" / "slurm"
        shutil.copy(here / "toy_member.py", project)
        torchrun = project / "torch" / "distributed" / "run.py"
        torchrun.parent.mkdir(parents=True)
        shutil.copy(here / "one_rank_torchrun.py", torchrun)
        for package in (torchrun.parent, torchrun.parent.parent):
            (package / "__init__.py").touch()
    return Place(home=project, runs=folder / "runs", snapshots=folder / "snapshots")


def toy_spec(*arguments: str, name: str = "toy") -> JobSpec:
    """A run of the toy member on one node."""
    return JobSpec("sweep", name, "toy_member", ("train", *arguments), RESOURCES)


def starts_of(run: Path) -> list[int]:
    """The attempts in which a run's rank has started, in order."""
    path = run / "starts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["attempt"] for line in lines]


def state_of(run: Path) -> str:
    """What the run's state file says; empty where there is none."""
    return str(RunFolder(run).read_state().get("state", ""))


def wait_states(runs: list[Path], wanted: Callable[[str], bool], seconds: float) -> None:
    """Wait until every run is in a wanted state."""

    def rest() -> str:
        left = [
            (run.name, RunFolder(run).read_state()) for run in runs if not wanted(state_of(run))
        ]
        return f"{len(left)} of {len(runs)} runs, such as {left[:2]}"

    try:
        wait_for(lambda: all(wanted(state_of(run)) for run in runs), seconds, "the runs")
    except AssertionError as error:
        raise AssertionError(f"{error}: {rest()}\n{logs_of(runs[0])}") from None


def logs_of(run: Path) -> str:
    """The ends of what a run has said, for a message."""
    paths = [*run.glob("submission/*.out"), *run.glob("attempts/*/logs/*.log")]
    return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-1500:]}" for path in paths)


def job_of(run: Path) -> str:
    """The job of a run that is at work or queued."""
    return find_standing(RunFolder(run)).job_id


def stop_by_hand(run: Path) -> int:
    """Have a running run save, stop and go on in a successor.

    Returns:
        The attempt that follows.
    """
    before = RunFolder(run).latest_attempt()
    wait_for(lambda: len(starts_of(run)) > 0 and starts_of(run)[-1] == before, 90.0, "its rank")
    scheduler.send_signal(job_of(run), "USR2")
    outcome = RunFolder(run).attempt(before).outcome_json
    wait_for(lambda: (read_json(outcome) or {}).get("state") == "queued", 90.0, "its stop")
    wait_for(lambda: starts_of(run)[-1] == before + 1, 90.0, "its next attempt")
    return before + 1
