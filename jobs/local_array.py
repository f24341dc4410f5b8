"""An array on this machine: `python -m jobs.local_array ARRAY PARALLEL` runs its members.

Ended by SIGTERM it starts no more members and ends those that run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.agent import NodeAgent
from jobs.array import ArrayFolder, Place, member_token, prepare_member
from jobs.errors import JobsError
from jobs.local_start import start
from jobs.node import NodeFacts, is_alive, process_start
from jobs.run_folder import RunFolder

logger = logging.getLogger(__name__)

_LOOK_SEC = 0.2


def run_members(array: ArrayFolder, executor: str, parallel: int) -> None:
    """Run all members of an array, some at a time; a member that fails does not hold up the rest.

    Args:
        array: its index is there.
        executor: local, or debug: in this process, one by one.
        parallel: how many members run at a time.
    """
    facts = array.read_shared()["facts"]
    snapshot = str(facts["snapshot"])
    gpus = int(facts["spec"]["resources"]["gpus_per_node"])
    slots: list[_Running | None] = [None] * parallel
    is_told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: is_told.append(number))
    for position in range(len(array.read_members())):
        place = Place(array, 0, position, member_token(array.token(0), position))
        if executor == "debug":
            _run_here(place, snapshot)
            continue
        slot = _wait_for_slot(slots, is_told)
        if slot is None:
            break
        slots[slot] = _start(place, snapshot, gpus, slot)
    while any(slots) and not is_told:
        _look(slots)
    for running in filter(None, slots):
        os.kill(running.pid, signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class _Running:
    pid: int
    started: int | None


def _wait_for_slot(slots: list[_Running | None], is_told: list[int]) -> int | None:
    """Return a free slot; None once this process was told to end."""
    while not is_told:
        if None in slots:
            return slots.index(None)
        _look(slots)
    return None


def _look(slots: list[_Running | None]) -> None:
    for number, running in enumerate(slots):
        if running is not None and not is_alive(running.pid, running.started):
            slots[number] = None
    if None not in slots or any(slots):
        time.sleep(_LOOK_SEC)


def _start(place: Place, snapshot: str, gpus: int, slot: int) -> _Running | None:
    try:
        run = prepare_member(place, _node("local"))
        if not _is_ours(run, place):
            return None
        pid = int(start(str(run.path), snapshot, place.token, gpus, slot))
    except (JobsError, OSError) as error:
        logger.error("member %d could not start: %s", place.position, error)
        return None
    return _Running(pid, process_start(pid))


def _run_here(place: Place, snapshot: str) -> None:
    run = prepare_member(place, _node("debug"))
    if not _is_ours(run, place):
        return
    try:
        NodeAgent(str(run.path), snapshot, place.token)()
    except SystemExit:
        logger.warning("%s: %s", run.path, run.read_state().get("reason"))


def _is_ours(run: RunFolder, place: Place) -> bool:
    holder = run.attempt(run.latest_attempt()).holder
    return holder is not None and holder.token == place.token


def _node(executor: str) -> NodeFacts:
    return NodeFacts(executor=executor, job_id=str(os.getpid()))


def visible_count(listed: str | None) -> int | None:
    """Return how many GPUs CUDA_VISIBLE_DEVICES lists; None if it says nothing."""
    if listed is None:
        return None
    return len([part for part in listed.split(",") if part.strip()])


def main(array_dir: str, parallel: str) -> int:
    """Run the array."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    run_members(ArrayFolder(Path(array_dir)), "local", int(parallel))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
