"""Signals as things to read: they arrive through a pipe and never interrupt the code."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any

LISTENED = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT, signal.SIGINT)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """Stand in as the handler: the wakeup file descriptor carries the number."""


class SignalPipe:
    """Takes over the agent's signals while it is open; belongs to the main thread.

    Replaces whatever handlers were there, submitit's included, and puts them back at the end.
    """

    def __enter__(self) -> SignalPipe:
        self._read_end, write_end = os.pipe()
        self._write_end = write_end
        os.set_blocking(self._read_end, False)
        os.set_blocking(write_end, False)
        self._old_wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._old: dict[signal.Signals, Any] = {
            each: signal.signal(each, _nothing) for each in LISTENED
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._old.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._read_end)
        os.close(self._write_end)

    def wait(self, timeout_sec: float) -> list[signal.Signals]:
        """Return the signals that came, waiting up to `timeout_sec` for the first."""
        if not select.select([self._read_end], [], [], timeout_sec)[0]:
            return []
        heard = os.read(self._read_end, 1024)
        return [signal.Signals(number) for number in heard if number in LISTENED]
