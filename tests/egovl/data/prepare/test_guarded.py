"""Guarded calls: results come back, what hangs or dies is named and takes nothing along."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from egovl.data.prepare.guarded import run_guarded


def work(item: str, progress: Callable[[int], None]) -> str:
    if item == "hang":
        time.sleep(60)
    if item == "die":
        os._exit(7)
    if item == "bad":
        raise ValueError("bad value")
    if item == "slow":
        for step in range(20):
            time.sleep(0.25)
            progress(step)
    return item.upper()


def test_every_item_has_its_outcome() -> None:
    items = ["a", "hang", "die", "bad", "slow", "b"]
    outcomes = {o.item: o for o in run_guarded(work, items, workers=3, stall_sec=4)}
    assert sorted(outcomes) == sorted(items)
    assert [outcomes[name].result for name in ("a", "b", "slow")] == ["A", "B", "SLOW"]
    assert "no progress" in str(outcomes["hang"].error)
    assert "exit code 7" in str(outcomes["die"].error)
    assert outcomes["bad"].error == "bad value"


def test_a_stop_ends_what_runs() -> None:
    started = time.monotonic()
    outcomes = run_guarded(
        work, ["a", "hang"], 1, stall_sec=60, should_stop=lambda: time.monotonic() > started + 2
    )
    assert [outcome.item for outcome in outcomes] == ["a"]
    assert time.monotonic() - started < 20
