"""Look at and steer runs: `python -m jobs status|follow|stop|preempt RUN`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.errors import JobsError, RunError
from jobs.follow import describe_state, follow
from jobs.run_folder import RunFolder, create_json, read_json
from jobs.standing import Standing, find_standing
from jobs.stop import Stop


def status(run: RunFolder) -> int:
    """Print the run's state and who is at work on it."""
    state = run.read_state()
    standing = find_standing(run)
    print(describe_state(state) if state else "[no state yet]")
    print(f"last COMMIT: {run.last_commit_step()}; {standing.message or standing.state}")
    return 0


def stop(run: RunFolder) -> int:
    """Have the run save and end, and not go on by itself."""
    standing = find_live(run)
    attempt = run.attempt(run.latest_attempt())
    create_json(attempt.stop_json, Stop("user", None, "user", "python -m jobs stop").to_json())
    if standing.executor == "slurm" and _is_pending(standing.job_id):
        slurm.cancel(standing.job_id)
        run.write_state("stopped", attempt=attempt.number, job_id=standing.job_id, cause="user")
        print(f"job {standing.job_id} taken out of the queue; launch it again to go on")
        return 0
    send_stop_signal(run, standing)
    print("asked to save and stop; launch it again to go on")
    return 0


def preempt(run: RunFolder) -> int:
    """Give the run the signal of a preemption, as a drill: it saves, stops and goes on."""
    send_stop_signal(run, find_live(run))
    print("stop signal sent; the run goes on by itself")
    return 0


def find_live(run: RunFolder) -> Standing:
    """Return who is at work on the run.

    Raises:
        RunError: if nobody is.
    """
    standing = find_standing(run)
    if standing.state != "live" or not standing.job_id:
        raise RunError(f"nobody is at work on {run.path}: {standing.message or standing.state}")
    return standing


def send_stop_signal(run: RunFolder, standing: Standing) -> None:
    """Send SIGUSR2 to the agents of a run.

    Raises:
        RunError: if a local run's agent has not started yet.
    """
    if standing.executor == "slurm":
        slurm.send_signal(standing.job_id, "USR2")
        return
    agent = read_json(run.attempt(run.latest_attempt()).node_json(0))
    if agent is None:
        raise RunError(f"{run.path}: its agent has not started yet, try again")
    os.kill(int(agent["pid"]), signal.SIGUSR2)


def _is_pending(job_id: str) -> bool:
    job: dict[str, Any] = slurm.show_job(job_id) or {}
    return str(job.get("JobState", "")).startswith("PENDING")


def main() -> int:
    """Parse and act."""
    actions = {"status": status, "follow": follow, "stop": stop, "preempt": preempt}
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("action", choices=actions)
    parser.add_argument("run", type=Path, help="a run folder, runs/<kind>/<name>")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run.resolve())
    try:
        if not run.run_json.is_file():
            raise RunError(f"{arguments.run} is not a run folder")
        return actions[arguments.action](run)
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
