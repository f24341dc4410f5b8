"""Where the ranks of a node stand: Python and native stacks, and what the kernel says.

The Python stacks come from a handler that every rank has registered (`jobs.rank`); it runs in C, so
it answers while the main thread is stuck in native code. What it writes lands in the node's memory
and only then on the shared disk, which may be what hangs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.node import descendants
from jobs.rank import STACK_NAME, STACK_SIGNAL

ANSWER_SEC = 3.0  # for the handlers of a node's ranks to write
_SETTLED_SEC = 0.1  # a file that has not grown for so long is whole

FLIGHT_RECORDS = "nccl."  # + rank: the collectives that NCCL remembers, a pickle of torch's
_RECORDED_COLLECTIVES = 2000
_RECORDS_SEC = 5.0  # torch looks at its pipe once a second


@dataclass(frozen=True)
class Native:
    """The tool for native stacks and how long it may take."""

    tool: str | None
    seconds: float

    @classmethod
    def find(cls, seconds: float) -> Native:
        """Return py-spy, which reads Python and native frames together, or gdb, or none."""
        beside = str(Path(sys.executable).parent)
        path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
        tool = shutil.which("py-spy", path=path) or shutil.which("gdb", path=path)
        return cls(tool if seconds else None, seconds)

    def command(self, pid: int) -> list[str]:
        """Return what prints the native stacks of a process."""
        assert self.tool is not None
        if Path(self.tool).name == "py-spy":
            return [self.tool, "dump", "--native", "--pid", str(pid)]
        show = ["-ex", "set pagination off", "-ex", "thread apply all backtrace 40"]
        return [self.tool, "-nx", "-batch", "-p", str(pid), *show]


def flight_recorder(local: Path, stacks: Path) -> dict[str, str]:
    """Return the environment with which NCCL's last collectives land beside the stacks.

    Torch writes them when a collective times out, and when something comes through a named pipe. It
    makes the pipes itself and fails where it cannot, as on some shared disks: they are in memory.

    Args:
        local: folder in the node's memory.
        stacks: the attempt's folder.
    """
    return {
        "TORCH_FR_BUFFER_SIZE": str(_RECORDED_COLLECTIVES),
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(stacks / FLIGHT_RECORDS),
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(local / FLIGHT_RECORDS),
    }


def collect_stacks(
    local: Path, stacks: Path, pids: Mapping[int, int], heading: str, native_sec: float
) -> dict[int, str]:
    """Write `<stacks>/<rank>.txt` for the ranks of this node.

    Args:
        local: the node-local folder of the ranks' handlers.
        stacks: the attempt's folder.
        pids: rank -> process id.
        heading: why, the first line of each file.
        native_sec: for py-spy or gdb; 0 leaves native stacks out.

    Returns:
        Rank -> its innermost Python frame; an empty text where it did not answer.
    """
    stacks.mkdir(parents=True, exist_ok=True)
    families = {rank: [pid, *descendants(pid)] for rank, pid in pids.items()}
    files = {rank: local / STACK_NAME.format(rank=rank) for rank in pids}
    asked = [rank for rank in pids if _ask_flight_recorder(local / f"{FLIGHT_RECORDS}{rank}.pipe")]
    _ask_for_stacks(pids, files, ANSWER_SEC)
    frames = {rank: innermost_frame(_text(file)) for rank, file in files.items()}
    _ask_loaders(families, files)
    native = _native_stacks(Native.find(native_sec), pids)
    _wait_for_records([stacks / f"{FLIGHT_RECORDS}{rank}" for rank in asked])
    for rank, pid in pids.items():
        sections = {
            "Python, newest call first; the last thread is the main one": _text(files[rank])
            or "no answer: every thread waits in the kernel, see below",
            **native.get(rank, {}),
            "Linux": "\n".join(_kernel_view(each) for each in families[rank]) or f"{pid} is gone",
        }
        text = "\n\n".join(f"== {name} ==\n{body.strip()}" for name, body in sections.items())
        first = f"rank {rank}, process {pid}: {heading}"
        (stacks / f"{rank}.txt").write_text(f"{first}\n\n{text}\n", encoding="utf-8")
    return frames


def innermost_frame(text: str) -> str:
    """Return file, line and function of the main thread in what faulthandler wrote, or nothing."""
    _, _, main_thread = text.rpartition("(most recent call first):\n")
    match = re.match(r'\s*File "([^"]*)", line (\d+) in (.*)', main_thread)
    if match is None:
        return ""
    path, line, function = match.groups()
    return f"{'/'.join(Path(path).parts[-2:])}:{line} {function}"


def _ask_for_stacks(
    pids: Mapping[int, int], files: Mapping[int, Path], patience_sec: float
) -> None:
    """Signal one process of each rank and wait for what it writes into the rank's file."""
    before = {rank: _size(files[rank]) for rank in pids}
    asked: list[int] = []
    for rank, pid in pids.items():
        # a process that does not catch this signal, such as ffmpeg, would die of it
        if _catches(pid, STACK_SIGNAL):
            _signal(pid, STACK_SIGNAL)
            asked.append(rank)
    until, sizes, since = time.monotonic() + patience_sec, before, time.monotonic()
    while asked and time.monotonic() < until:
        time.sleep(0.02)
        now = {rank: _size(files[rank]) for rank in pids}
        if now != sizes:
            sizes, since = now, time.monotonic()
        have_all = all(now[rank] > before[rank] for rank in asked)
        if have_all and time.monotonic() > since + _SETTLED_SEC:
            return


def _ask_loaders(families: Mapping[int, list[int]], files: Mapping[int, Path]) -> None:
    """Have the processes that the ranks forked add their stacks, one after the other."""
    until = time.monotonic() + ANSWER_SEC
    deepest = max((len(family) for family in families.values()), default=0)
    for place in range(1, deepest):
        left_sec = until - time.monotonic()
        if left_sec < 0:
            return
        turn = {rank: pids[place] for rank, pids in families.items() if len(pids) > place}
        turn = {rank: pid for rank, pid in turn.items() if _catches(pid, STACK_SIGNAL)}
        for rank, pid in turn.items():
            with files[rank].open("a", encoding="utf-8") as file:
                file.write(f"\nprocess {pid}, which rank {rank} forked:\n")
        _ask_for_stacks(turn, files, left_sec)


def _native_stacks(native: Native, pids: Mapping[int, int]) -> dict[int, dict[str, str]]:
    if native.tool is None:
        return {}
    until = time.monotonic() + native.seconds
    running = {
        rank: subprocess.Popen(
            native.command(pid),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for rank, pid in pids.items()
    }
    texts: dict[int, dict[str, str]] = {}
    for rank, process in running.items():
        try:
            text = process.communicate(timeout=max(0.1, until - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            process.kill()  # it detaches as it dies
            text = f"not done in {native.seconds:g} s\n{process.communicate()[0]}"
        texts[rank] = {f"native, by {Path(native.tool).name}": text}
    return texts


def _ask_flight_recorder(pipe: Path) -> bool:
    """Ask a rank's NCCL for its last collectives; return whether somebody may answer."""
    try:
        handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False  # no NCCL in this rank, or nobody reads
    try:
        return os.write(handle, b"1\n") > 0
    except OSError:
        return False
    finally:
        os.close(handle)


def _wait_for_records(files: list[Path]) -> None:
    until = time.monotonic() + _RECORDS_SEC
    while not all(_size(file) for file in files) and time.monotonic() < until:
        time.sleep(0.1)


def _kernel_view(pid: int) -> str:
    """Return what Linux says of a process: its command, memory, and where each thread waits."""
    process = Path(f"/proc/{pid}")
    command = _text(process / "cmdline").replace("\0", " ").strip()
    wanted = ("State", "PPid", "VmRSS", "Threads")
    status = [line for line in _text(process / "status").splitlines() if line.startswith(wanted)]
    lines = [f"process {pid}: {command[:300]}", "  " + " ".join(" ".join(status).split())]
    try:
        threads = sorted(os.listdir(process / "task"), key=int)
    except OSError:
        return f"process {pid} is gone"
    for thread in threads:
        task = process / "task" / thread
        state = _text(task / "stat").rpartition(")")[2].split()[:1]
        name, waits = _text(task / "comm").strip(), _text(task / "wchan").strip()
        call = _text(task / "syscall").split()[:1]
        facts = [f"state {(state or ['?'])[0]}", f"waits in {waits or '?'}"]
        facts += [f"system call {call[0]}"] if call else []
        lines.append(f"  thread {thread} {name}: {', '.join(facts)}")
        lines += [f"    {line}" for line in _text(task / "stack").splitlines()]
    return "\n".join(lines)


def _catches(pid: int, signum: int) -> bool:
    for line in _text(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False


def _signal(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
