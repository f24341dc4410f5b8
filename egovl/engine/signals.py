"""The stop request as a rank sees it: a signal's flag, or a file that the node's agent writes.

Nothing heavy is imported, so that the handlers stand before ``import torch``: under
``proctrack/linuxproc`` Slurm's SIGTERM reaches every rank, also one that still starts.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP_FILE_VARIABLE = "EGOVL_STOP_FILE"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Whether this rank was asked to stop; asking again changes nothing.

    Saving never happens in the handler: the trainer reads ``requested()`` at step edges.
    """

    def __init__(self, stop_file: str | None = None) -> None:
        self._stop_file = stop_file or os.environ.get(STOP_FILE_VARIABLE)
        self._signalled = False

    def install(self) -> StopRequest:
        """Take TERM, INT and USR2, unless the parent had them ignored. Main thread only."""
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def requested(self) -> bool:
        """One look at a node-local file; a failing ``stat`` would cost an exception more."""
        if self._signalled or self._stop_file is None:
            return self._signalled
        return os.access(self._stop_file, os.F_OK)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signalled:
            raise KeyboardInterrupt
        self._signalled = True
