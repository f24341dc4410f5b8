"""`python -m jobs resume`: go on with a run that has ended or was lost."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

HELP = "go on with a stopped, failed, lost or cancelled run from its last checkpoint, as it was"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser)
    add = parser.add_argument
    add("--nodes", type=int, metavar="N", help="on so many nodes (default: as before)")
    add("--time", metavar="TIME", help="time limit: 90m, 48h, 2-00:00:00 (default: as before)")
    add("--partition", metavar="NAME", help="Slurm partition (default: as before)")
    add("--exclude", metavar="NODES", help="nodes not to use, with commas, besides those before")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Resume; returns 0 if it was queued, is done, or waited in the queue already.

    Raises:
        RunError: if somebody is at work on it, or there is no such run.
    """
    from jobs.errors import RunError
    from jobs.find_run import find_run
    from jobs.resume import resume
    from jobs.spec import parse_duration
    from jobs.status import StatusReader

    folder = find_run(arguments.run, arguments.runs)
    asked = {
        "nodes": arguments.nodes,
        "time_limit_sec": parse_duration(arguments.time) if arguments.time else None,
        "partition": arguments.partition,
        "exclude": tuple(arguments.exclude.split(",")) if arguments.exclude else None,
    }
    reader = StatusReader(folder.path.parent.parent)
    row = reader.read_one(folder.path)
    if row is not None and reader.lift_wait(row):
        return _say(
            "queued", f"job {row.job_id} was held back after a requeue: starts now", arguments
        )
    launched = resume(folder, {name: value for name, value in asked.items() if value is not None})
    if launched.state == "live":
        raise RunError(f"not resumed: {launched.message}")
    if launched.state == "queued":
        what = "job" if launched.executor == "slurm" else "process"
        return _say(
            "queued", f"{launched.message}: {what} {launched.job_id}", arguments, launched.job_id
        )
    return _say(launched.state, launched.message, arguments, launched.job_id)


def _say(state: str, message: str, arguments: argparse.Namespace, job_id: str = "") -> int:
    if arguments.json:
        import json

        print(json.dumps({"schema": 1, "state": state, "job_id": job_id, "message": message}))
    else:
        print(message)
    return 0
