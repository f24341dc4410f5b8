"""What this rank is doing, told to the node's agent: a rank that says nothing for long hangs.

The agent names a file in the node's memory (``EGOVL_HEARTBEAT_FILE``); without one, as when a run
is started by hand, nothing is written. One write costs about a microsecond.
"""

from __future__ import annotations

import functools
import os
from typing import Literal

HEARTBEAT_VARIABLE = "EGOVL_HEARTBEAT_FILE"

Phase = Literal["start", "step", "save", "eval"]


def beat(phase: Phase, count: int) -> None:
    """Say that this rank is in a phase, and how far.

    Args:
        phase: what begins now; each has a time limit of its own.
        count: steps done.
    """
    handle = _open()
    if handle is not None:
        # one fixed size: a shorter line leaves nothing of a longer one behind
        os.pwrite(handle, b"%-5s %-18d\n" % (phase.encode(), count), 0)


@functools.cache
def _open() -> int | None:
    path = os.environ.get(HEARTBEAT_VARIABLE)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT, 0o644) if path else None
    except OSError:
        return None  # the folder is gone with its agent
