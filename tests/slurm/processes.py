"""Daemons started by hand: start, find again, stop. Only those that carry our mark are touched.

A daemon gets `EGOVL_TESTBED=<folder>` in its environment, which slurmstepd inherits from slurmd.
What a job runs does not (Slurm gives it the job's environment): it is known by SLURM_CONF
together with SLURMD_NODENAME, which only a process inside a job has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.errors import TestbedError

MARK = "EGOVL_TESTBED"


class Daemon:
    """One daemon in the foreground of its own session, its pid in `<run>/<name>.our-pid`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.pid_file = folder / "run" / f"{name}.our-pid"
        self.log = folder / "log" / f"{name}.out"

    def start(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Start it; the caller waits for what it serves."""
        marked = os.environ | (environment or {}) | {MARK: str(self.folder)}
        for name in [name for name in marked if name.startswith(("SLURM_", "SBATCH_"))]:
            if name != "SLURM_CONF":
                del marked[name]
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=marked,
                cwd=self.folder,
                start_new_session=True,
            )
        # It outlives this process on purpose; `reap` collects it where we are its parent.
        child.returncode = 0
        self.pid_file.write_text(f"{child.pid}\n")

    @property
    def pid(self) -> int | None:
        """Pid of the living daemon, None when it is gone."""
        if not self.pid_file.exists():
            return None
        pid = int(self.pid_file.read_text())
        return pid if pid in marked_processes(self.folder) else None

    def tail(self, size: int = 1500) -> str:
        """The end of what it wrote."""
        logs = [self.log, self.folder / "log" / f"{self.name}.log"]
        texts = [path.read_text(errors="replace")[-size:] for path in logs if path.exists()]
        return "\n".join(text for text in texts if text.strip())

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it serves.

        Raises:
            TestbedError: it ended or was not ready in time; its log is in the message.
        """
        end = time.monotonic() + seconds
        while not is_ready():
            # Not `pid`: the environment, and so the mark, is unreadable for a moment during exec.
            if not is_alive(int(self.pid_file.read_text())):
                raise TestbedError(f"{self.name} ended at its start:\n{self.tail()}")
            if time.monotonic() > end:
                raise TestbedError(f"{self.name} is not ready after {seconds} s:\n{self.tail()}")
            time.sleep(0.03)


def marked_processes(folder: Path) -> set[int]:
    """Living daemons (and slurmstepd) of the testbed in `folder`."""
    mark = f"{MARK}={folder}".encode()
    return {pid for pid, variables in _environments() if mark in variables}


def job_processes(folder: Path) -> set[int]:
    """Living processes of jobs of the testbed in `folder`, orphans too."""
    conf = f"SLURM_CONF={folder / 'etc' / 'slurm.conf'}".encode()
    return {
        pid
        for pid, variables in _environments()
        if conf in variables and any(value.startswith(b"SLURMD_NODENAME=") for value in variables)
    }


def _environments() -> list[tuple[int, set[bytes]]]:
    ours = _self_and_ancestors()
    found: list[tuple[int, set[bytes]]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if variables and is_alive(int(entry.name)):
            found.append((int(entry.name), set(variables.split(b"\0"))))
    return found


def _self_and_ancestors() -> set[int]:
    pid, found = os.getpid(), set[int]()
    while pid > 0:
        found.add(pid)
        pid = int(_stat_fields(pid)[1])
    return found


def _stat_fields(pid: int) -> list[str]:
    """State, parent, ... of /proc/<pid>/stat; the name before them may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """True while the process runs; a zombie is not alive."""
    try:
        return _stat_fields(pid)[0] not in ("Z", "X")
    except OSError:
        return False


def kill(pids: set[int]) -> None:
    """KILL to these, reap our own children; return when all are gone.

    Raises:
        TestbedError: one of them lives on.
    """
    for pid in pids:
        send(pid, signal.SIGKILL)
    if not _wait_gone(pids, 10.0):
        alive = sorted(pid for pid in pids if is_alive(pid))
        raise TestbedError(f"processes {alive} live on 10 s after SIGKILL")


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_gone(pids: set[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    for pid in pids:
        _reap(pid)
    return True


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # not our child
        return
