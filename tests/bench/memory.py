"""How far the memory of this process rises while something runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def rise_mib(call: Callable[[], object]) -> float:
    """Peak MiB of resident memory during a call, over what was resident before it; Linux.

    getrusage's peak would not do: it knows no reset, and a process inherits its parent's.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _resident_mib("VmRSS")
    call()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    found = re.search(
        rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) / 1024
