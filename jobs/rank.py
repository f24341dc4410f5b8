"""What torchrun starts as each rank: `python -m jobs.rank MODULE ARGUMENTS...`.

Sends the rank's output to its own log, tells the node's agent its process id, ties its life to
torchrun's (a killed torchrun must not leave ranks that hold the GPUs), and runs the module in this
very process.
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import sys
from pathlib import Path

from jobs.environment import HEARTBEAT_FILE, MAIN_LOG, RANK_LOG, STOP_FILE

# Files in the node's memory, beside the stop file.
PID_NAME = "rank.{rank}.pid"
HEARTBEAT_NAME = "rank.{rank}.heartbeat"
STACK_NAME = "rank.{rank}.stack"

# On this one a rank writes its stacks. Real-time signals have no other meaning to Slurm, torch,
# CUDA or torchrun, and the agent does not have them ignored.
STACK_SIGNAL = 45

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int) -> None:
    """Have the kernel send this process a signal when its parent dies; Linux only."""
    if sys.platform == "linux":
        import ctypes  # not for a launcher, which imports this for its names

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)


def _send_output_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _mark_rank(log: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(log.name)


def _report_pid(folder: Path, rank: str) -> None:
    beside = folder / f".{rank}.pid"
    beside.write_text(str(os.getpid()), encoding="ascii")
    beside.replace(folder / PID_NAME.format(rank=rank))


def _write_stacks_when_asked(file: Path) -> None:
    """Have the C handler dump all threads; it needs neither the GIL nor a main thread that runs."""
    if sys.platform == "linux":
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        faulthandler.register(STACK_SIGNAL, handle, all_threads=True)


def main() -> None:
    """Run the module named by the first argument."""
    module, *arguments = sys.argv[1:]
    die_with_parent(signal.SIGKILL)
    if pattern := os.environ.get(RANK_LOG):
        log = Path(pattern.format(local_rank=os.environ["LOCAL_RANK"]))
        _send_output_to(log)
        _mark_rank(log, Path(os.environ[MAIN_LOG]).with_name(f"rank{os.environ['RANK']}.log"))
        folder, rank = Path(os.environ[STOP_FILE]).parent, os.environ["RANK"]
        os.environ[HEARTBEAT_FILE] = str(folder / HEARTBEAT_NAME.format(rank=rank))
        _write_stacks_when_asked(folder / STACK_NAME.format(rank=rank))
        _report_pid(folder, rank)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
