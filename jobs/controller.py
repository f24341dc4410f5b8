"""A process that sees to several runs on this machine, after the launcher has left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.environment import code_first
from jobs.node import is_alive, process_start


def start_controller(arguments: Sequence[str], snapshot: Path, log: Path) -> dict[str, Any]:
    """Start `python -m arguments` from a code copy, in a session of its own.

    Returns:
        What `controller_pid` recognises it by.
    """
    with slurm.outside_any_job(code_first(str(snapshot))), log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=snapshot,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return {"pid": process.pid, "process_start": process_start(process.pid)}


def controller_pid(facts: Mapping[str, Any]) -> int | None:
    """Return the process if it still runs on this machine."""
    pid = int(facts.get("pid", 0))
    return pid if pid and is_alive(pid, facts.get("process_start")) else None
