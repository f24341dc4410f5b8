"""The GPUs of a node as nvidia-smi sees them: how many, broken memory, foreign memory, clocks."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.node import descendants

# nvidia-smi renamed `clocks_throttle_reasons` to `clocks_event_reasons` with driver 535; each
# version refuses the whole query if it does not know a name.
CLOCK_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
FIELDS = (
    *("index", "uuid", "name", "memory.total", "memory.used"),
    "ecc.errors.uncorrected.volatile.total",
)
# Bits of the active clock reasons (NVML, nvmlClocksEventReasons) that slow a healthy job down.
SLOW_CLOCKS = {
    0x08: "hardware slowdown",
    0x20: "too hot (driver)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
SMI_SEC = 12.0  # without persistence mode the driver starts anew for every call
_FREE_SEC = 6.0  # the memory of the job before may take that long to come back
_MIB_PER_GIB = 1024.0


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi; None is what this card or driver does not report."""

    index: int
    uuid: str
    name: str
    total_mib: float | None
    used_mib: float | None
    uncorrected_errors: int | None
    clock_reasons: int | None


class SmiError(Exception):
    """nvidia-smi did not do its work; the message carries its words."""


def parse_gpus(text: str) -> list[Gpu]:
    """Return the GPUs in the output of `--query-gpu` with `csv,noheader,nounits`.

    Raises:
        SmiError: if a line has another shape.
    """
    gpus: list[Gpu] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(FIELDS) + 1 or not cells[0].isdecimal():
            raise SmiError(
                f"nvidia-smi says {line.strip()!r}, which is not {len(FIELDS) + 1} values"
            )
        total, used, errors = (_number(cell) for cell in cells[3:6])
        reasons = int(cells[6], 16) if cells[6].lower().startswith("0x") else None
        count = None if errors is None else int(errors)
        gpus.append(Gpu(int(cells[0]), cells[1], cells[2], total, used, count, reasons))
    return gpus


def parse_users(text: str) -> list[tuple[str, int, float | None]]:
    """Return (GPU uuid, pid, MiB) of `--query-compute-apps=gpu_uuid,pid,used_memory`."""
    users: list[tuple[str, int, float | None]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[1].isdecimal():
            users.append((cells[0], int(cells[1]), _number(cells[2])))
    return users


def choose_visible(gpus: Sequence[Gpu], listed: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, by number or uuid; all without it."""
    names = [name.strip() for name in (listed or "").split(",") if name.strip()]
    if not names:
        return list(gpus)
    return [
        gpu
        for gpu in gpus
        if any(name == str(gpu.index) or gpu.uuid.startswith(name) for name in names)
    ]


def find_faults(
    gpus: Sequence[Gpu],
    users: Sequence[tuple[str, int, float | None]],
    *,
    wanted: int,
    ours: Collection[int],
    foreign_gb: float,
) -> list[str]:
    """Return what is wrong with a node's GPUs, in words with what to do about it.

    Args:
        gpus: those that the job may use.
        users: processes on them.
        wanted: how many GPUs the job asked for on this node.
        ours: process ids of this job.
        foreign_gb: memory that others may hold.
    """
    faults: list[str] = []
    if len(gpus) < wanted:
        indices = ", ".join(str(gpu.index) for gpu in gpus) or "none"
        faults.append(
            f"{len(gpus)} GPUs of {wanted} (there: {indices}): one fell off the bus, or gres.conf "
            "promises too many; `nvidia-smi -L` and dmesg on the node say which"
        )
    for gpu in gpus:
        if gpu.uncorrected_errors:
            faults.append(
                f"GPU {gpu.index} has {gpu.uncorrected_errors} uncorrected memory errors since its "
                "driver started: ask the admins to reset it"
            )
        held = _foreign_mib(gpu, users, ours)
        if held > foreign_gb * _MIB_PER_GIB:
            pids = [str(pid) for uuid, pid, _ in users if uuid == gpu.uuid and pid not in ours]
            by = f"process {', '.join(pids)}" if pids else "nobody that nvidia-smi names"
            faults.append(
                f"GPU {gpu.index}: {held / _MIB_PER_GIB:.1f} GB are held by {by}: left over from "
                "another job, or the node is shared"
            )
        slow = [words for bit, words in SLOW_CLOCKS.items() if (gpu.clock_reasons or 0) & bit]
        if slow:
            faults.append(
                f"GPU {gpu.index} runs slower than it could: {', '.join(slow)} (reasons "
                f"{gpu.clock_reasons:#x}): ask the admins to look at cooling and power"
            )
    return faults


def _foreign_mib(
    gpu: Gpu, users: Sequence[tuple[str, int, float | None]], ours: Collection[int]
) -> float:
    """Return the memory that is not this job's; nothing where our ranks have begun already."""
    here = [(pid, mib) for uuid, pid, mib in users if uuid == gpu.uuid]
    foreign = sum(mib or 0.0 for pid, mib in here if pid not in ours)
    if any(pid in ours for pid, _ in here):
        return foreign
    return max(foreign, gpu.used_mib or 0.0)


def check_gpus(wanted: int, foreign_gb: float, agent_pid: int) -> tuple[str, str, str]:
    """Return (state, value, message) of this node's GPUs.

    Args:
        wanted: GPUs that the job asked for on this node; above 0.
        foreign_gb: memory of a GPU that others may hold.
        agent_pid: the process below which all of this job's processes on the node run.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "skipped", "", "no nvidia-smi on this node: its GPUs were not looked at"
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "MIG-" in (listed or ""):
        return "skipped", str(listed), "slices of a GPU are not looked at"
    until = time.monotonic() + _FREE_SEC
    while True:
        try:
            gpus = choose_visible(query_gpus(tool), listed)
            asked = (
                "--query-compute-apps=gpu_uuid,pid,used_memory",
                "--format=csv,noheader,nounits",
            )
            users = parse_users(_run(tool, *asked))
        except SmiError as error:
            return "failed", "", f"{error}; drain the node, or leave it out with --exclude"
        except subprocess.TimeoutExpired:
            return "warned", "", f"nvidia-smi gave no answer in {SMI_SEC:g} s"
        ours = {agent_pid, *descendants(agent_pid)}
        faults = find_faults(gpus, users, wanted=wanted, ours=ours, foreign_gb=foreign_gb)
        only_memory = faults and all(" are held by " in fault for fault in faults)
        if not only_memory or time.monotonic() > until:
            break
        time.sleep(0.5)
    names = sorted({gpu.name for gpu in gpus})
    return "failed" if faults else "passed", f"{len(gpus)} x {', '.join(names)}", "; ".join(faults)


def query_gpus(tool: str) -> list[Gpu]:
    """Ask nvidia-smi for its GPUs, with the name of the clock reasons that it knows.

    Raises:
        SmiError: if it fails, as for a GPU that fell off the bus.
    """
    words = ""
    for field in CLOCK_FIELDS:
        query = f"--query-gpu={','.join((*FIELDS, field))}"
        try:
            return parse_gpus(_run(tool, query, "--format=csv,noheader,nounits"))
        except SmiError as error:
            words = str(error)
            if "not a valid field" not in words:
                raise
    raise SmiError(words)


def _run(tool: str, *arguments: str) -> str:
    result = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, timeout=SMI_SEC, check=False
    )
    if result.returncode != 0:
        said = (result.stdout.strip() or result.stderr.strip())[:500]
        raise SmiError(f"nvidia-smi ended with {result.returncode}: {said}")
    return result.stdout


def _number(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None  # [N/A], [Not Supported]
