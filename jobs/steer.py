"""Stop, cancel and preempt runs that somebody is at work on."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from jobs import slurm
from jobs.chain import end_children
from jobs.errors import JobsError, RunError
from jobs.find_run import find_run
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.standing import FINAL, Standing, find_standing
from jobs.stop import Stop

# How long a run on this machine may save after it was cancelled, as Slurm's KillWait.
CANCEL_SEC = slurm.DEFAULT_KILL_WAIT_SEC


@dataclass(frozen=True)
class Act:
    """What was done to a run.

    Attributes:
        did: stopping, stopped, cancelling, cancelled or preempting; `-ing`: it is under way.
        message: for people.
    """

    did: str
    message: str


def steer_all(
    names: Sequence[str],
    runs: str | None,
    act: Callable[[RunFolder], Act],
    *,
    as_json: bool,
    begins: bool = False,
) -> int:
    """Do the same to several runs and say what came of each; 2 if one was refused.

    Args:
        names: as people write them.
        runs: the folder of all runs as asked for.
        act: what to do.
        as_json: for programs.
        begins: whether it can be done to an array's member that has not begun.
    """
    done: list[dict[str, str]] = []
    code = 0
    for name in names:
        try:
            run = find_run(name, runs, begins=begins)
            result = act(run)
        except JobsError as error:
            print(f"error: {error}", file=sys.stderr)
            done.append({"run": name, "did": "refused", "message": str(error)})
            code = error.exit_code
            continue
        done.append({"run": str(run.path), **asdict(result)})
        if not as_json:
            print(f"{run.path.name}: {result.message}")
    if as_json:
        print(json.dumps({"schema": 1, "runs": done}, indent=1))
    return code


def stop(run: RunFolder) -> Act:
    """Have the run save and end, and not go on by itself.

    Raises:
        RunError: if nobody is at work on it.
        SubmitError: if Slurm does not answer.
    """
    standing = find_live(run)
    _ask(run, Stop("user", None, "user", "python -m jobs stop"))
    if standing.executor == "slurm" and slurm.cancel_pending(standing.job_id):
        _mark(run, "stopped", "user", standing)
        return Act("stopped", f"job {standing.job_id} taken out of the queue")
    send_stop_signal(run, standing)
    return Act("stopping", "asked to save and end")


def cancel(run: RunFolder) -> Act:
    """End the run at once; what was not saved is lost, and it does not go on by itself.

    A lost run, on which nobody is at work, is marked only.

    Raises:
        RunError: if it has ended.
        SubmitError: if Slurm does not answer.
    """
    standing = find_standing(run)
    written = str(run.read_state().get("state"))
    if standing.state == "done" or (standing.state == "idle" and written in FINAL):
        raise RunError(f"{run.path} has ended: {written}")
    if standing.state != "live" or not standing.job_id:
        if standing.state == "live":
            raise RunError(f"{standing.message}: try again")
        _mark(run, "cancelled", "cancelled", standing)
        return Act("cancelled", "nobody was at work on it; marked as cancelled")
    is_slurm = standing.executor == "slurm"
    deadline = None if is_slurm else time.time() + CANCEL_SEC
    _ask(run, Stop("cancelled", deadline, "user", "python -m jobs cancel"))
    if not is_slurm:
        message = f"process {standing.job_id} told to end within {CANCEL_SEC} s"
        return Act("cancelling", message)
    if slurm.cancel_pending(standing.job_id):
        _mark(run, "cancelled", "cancelled", standing)
        return Act("cancelled", f"job {standing.job_id} taken out of the queue")
    slurm.cancel(standing.job_id)
    return Act("cancelling", f"job {standing.job_id} cancelled")


def preempt(run: RunFolder) -> Act:
    """Give the run the signal of a preemption, as a drill: it saves, stops and goes on.

    Raises:
        RunError: if nobody is at work on it.
        SubmitError: if Slurm does not answer.
    """
    send_stop_signal(run, find_live(run))
    return Act("preempting", "stop signal sent; it saves, stops and goes on by itself")


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


def _ask(run: RunFolder, request: Stop) -> None:
    """Put a person's wish into the newest attempt, above what the scheduler wanted of it."""
    number = 0
    while number != run.latest_attempt():  # the run may go on this moment
        number = run.latest_attempt()
        write_json_atomic(run.attempt(number).stop_json, request.to_json())


def _mark(run: RunFolder, state: str, cause: str, standing: Standing) -> None:
    kept = {k: v for k, v in run.read_state().items() if k in ("budgets", "excluded", "nodes")}
    where = {"attempt": run.latest_attempt(), "executor": standing.executor or "slurm"}
    command = "stop" if state == "stopped" else "cancel"
    why = {"job_id": standing.job_id, "cause": cause, "reason": f"python -m jobs {command}"}
    run.write_state(state, **{**kept, **where, **why})
    end_children(run)
