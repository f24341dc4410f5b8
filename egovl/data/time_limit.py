"""Calls with a time limit that hold even when the call hangs inside a C library."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")


class TimeLimit:
    """Runs calls on a second thread and leaves the thread behind when one does not return.

    The decoders release the interpreter lock, so the caller goes on while a hung call stays hung;
    its thread is a daemon and ends with the process. The thread starts with the first call in a
    process, so an object of this class may be copied into loading processes by fork.
    """

    def __init__(self, limit_sec: float) -> None:
        self._limit_sec = limit_sec
        self._calls: SimpleQueue | None = None
        self._process = -1
        self.abandoned = 0

    def run(self, call: Callable[[], Result]) -> Result:
        """The call's result.

        Raises:
            TimeoutError: The limit passed first. What the call works on must not be used again.
        """
        if self._calls is None or self._process != os.getpid():
            self._calls, self._process = self._start(), os.getpid()
        answer: SimpleQueue = SimpleQueue()
        self._calls.put((call, answer))
        try:
            result, error = answer.get(timeout=self._limit_sec)
        except Empty:
            self._calls = None
            self.abandoned += 1
            raise TimeoutError(f"no answer within {self._limit_sec:g} s") from None
        if error is not None:
            raise error
        return result

    def _start(self) -> SimpleQueue:
        calls: SimpleQueue = SimpleQueue()
        threading.Thread(target=_serve, args=(calls,), name="decode", daemon=True).start()
        weakref.finalize(self, calls.put, None)  # the thread ends with this object
        return calls


def _serve(calls: SimpleQueue) -> None:
    while (job := calls.get()) is not None:
        call, answer = job
        try:
            outcome = call(), None
        except BaseException as error:  # carried to the caller, which raises it
            outcome = None, error
        answer.put(outcome)
        del job, call, answer, outcome
