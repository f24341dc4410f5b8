from __future__ import annotations

import os
import signal
import time

from jobs.signals import SignalPipe


def test_signals_come_through_the_pipe_in_their_order() -> None:
    with SignalPipe() as signals:
        assert signals.wait(0.0) == []
        os.kill(os.getpid(), signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(1.0) == [signal.SIGCONT, signal.SIGUSR2, signal.SIGTERM]
        assert signals.wait(0.0) == []


def test_signal_ends_the_wait_at_once() -> None:
    with SignalPipe() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        start = time.monotonic()
        signals.wait(10.0)
        assert time.monotonic() - start < 5


def test_handlers_that_were_there_are_replaced_and_come_back() -> None:
    heard: list[int] = []
    old = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with SignalPipe():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert heard == []
        os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, old)
