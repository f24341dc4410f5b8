"""A view that stays: the same text again and again, in place on a terminal, as lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

REFRESH_SEC = 2.0

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_HOME, _CLEAR, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


@dataclass(frozen=True)
class Frame:
    """What a view shows at one moment.

    Attributes:
        text: the lines.
        brief: what a terminal without a cursor prints when it changes: no ages, no countdowns.
        is_live: whether anything may still change.
    """

    text: str
    brief: str
    is_live: bool


def watch(draw: Callable[[int | None], Frame], refresh_sec: float = REFRESH_SEC) -> None:
    """Show a view until nothing is live or the reader presses Ctrl-C.

    Args:
        draw: makes a frame for a width; None where lines are not to be cut.
        refresh_sec: between frames; what a frame asks of Slurm is its own matter.
    """
    is_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        if is_screen:
            _watch_screen(draw, refresh_sec)
        else:
            _watch_lines(draw, refresh_sec)
    except KeyboardInterrupt:
        print("\nthe runs go on", flush=True)


def _watch_screen(draw: Callable[[int | None], Frame], refresh_sec: float) -> None:
    sys.stdout.write(_HIDE_CURSOR + _CLEAR)
    try:
        while True:
            size = shutil.get_terminal_size()
            frame = draw(size.columns)
            _paint(frame.text.splitlines(), size.lines)
            if not frame.is_live:
                return
            time.sleep(refresh_sec)
    finally:
        sys.stdout.write(f"{_SHOW_CURSOR}\n")
        sys.stdout.flush()


def _paint(lines: list[str], height: int) -> None:
    """Overwrite the screen line by line: clearing it first would flicker."""
    if len(lines) > height - 1:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: height - 2], f"... {hidden} more lines: make the window higher"]
    body = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
    sys.stdout.write(_HOME + body.rstrip("\n") + _CLEAR_BELOW)
    sys.stdout.flush()


def _watch_lines(draw: Callable[[int | None], Frame], refresh_sec: float) -> None:
    shown: str | None = None
    while True:
        frame = draw(None)
        if frame.brief != shown:
            shown = frame.brief
            print(f"{time.strftime('%H:%M:%S')}\n{frame.text}\n", flush=True)
        if not frame.is_live:
            return
        time.sleep(refresh_sec)
