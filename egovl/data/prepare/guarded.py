"""Calls in processes of their own, some at a time: one that hangs or dies takes no other along."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Work = Callable[[Item, Callable[[int], None]], Any]
"""What is done with an item; the second argument takes signs of progress."""

_LOOK_SEC = 0.5


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What a call came to: its result, or why there is none."""

    item: Item
    result: Any = None
    error: str | None = None


@dataclass
class _Running(Generic[Item]):
    item: Item
    process: BaseProcess
    heard: float


def run_guarded(
    work: Work[Item],
    items: Sequence[Item],
    workers: int,
    stall_sec: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome[Item]]:
    """Outcomes in the order in which they come; a stop ends what runs and gives none for it.

    Args:
        work: Importable by name, with a result that can be pickled.
        items: What it is called with.
        workers: Processes at a time.
        stall_sec: A call that shows no progress for so long is ended.
        should_stop: Asked twice a second.
    """
    # forked from a process that has imported the work and nothing else
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    waiting, running = list(reversed(items)), dict[Connection, _Running[Item]]()
    try:
        while (waiting or running) and not should_stop():
            while waiting and len(running) < workers:
                item = waiting.pop()
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(there, work, item), daemon=True)
                process.start()
                there.close()
                running[here] = _Running(item, process, time.monotonic())
            for connection in wait(list(running), timeout=_LOOK_SEC):
                assert isinstance(connection, Connection)
                outcome = _hear(connection, running[connection])
                if outcome is not None:
                    _end(connection, running.pop(connection))
                    yield outcome
            for connection in [c for c, r in running.items() if _is_stalled(r, stall_sec)]:
                stalled = running.pop(connection)
                _end(connection, stalled)
                yield Outcome(stalled.item, error=f"no progress in {stall_sec:g} s: it hangs")
    finally:
        for connection, left in running.items():
            _end(connection, left)


def _is_stalled(running: _Running[Any], stall_sec: float) -> bool:
    return time.monotonic() - running.heard > stall_sec


def _hear(connection: Connection, running: _Running[Item]) -> Outcome[Item] | None:
    """What a process says: None for a sign of progress."""
    try:
        kind, value = connection.recv()
    except EOFError:
        running.process.join(timeout=5)
        code = running.process.exitcode
        return Outcome(running.item, error=f"its process died (exit code {code})")
    running.heard = time.monotonic()
    if kind == "progress":
        return None
    return Outcome(running.item, **{kind: value})


def _end(connection: Connection, running: _Running[Any]) -> None:
    connection.close()
    if running.process.is_alive():
        running.process.join(timeout=0.2)  # one that has answered is leaving by itself
    running.process.kill()
    running.process.join()


def _serve(connection: Connection, work: Work[Any], item: object) -> None:
    # Slurm may signal every process of a job: stopping is left to the parent
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        result = work(item, lambda count: connection.send(("progress", count)))
    except (RuntimeError, OSError, ValueError) as error:
        connection.send(("error", str(error)))
    else:
        connection.send(("result", result))
