"""Wait for something to become true, and say what was waited for when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    predicate: Callable[[], T],
    seconds: float,
    what: str | Callable[[], str],
    pause_sec: float = 0.1,
) -> T:
    """First true value of `predicate`; `what` it stands for may be looked up when it fails.

    Raises:
        AssertionError: none came within `seconds`; the last value is in the message.
    """
    end = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > end:
            words = what if isinstance(what, str) else what()
            raise AssertionError(f"after {seconds} s still waiting for {words}; last: {value!r}")
        time.sleep(pause_sec)
    return value
