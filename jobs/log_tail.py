"""The logs of a run's ranks as they grow, over all its attempts, found by looking at file sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.run_folder import RunFolder

# What is shown of a log that was there before anybody looked.
_BACKLOG_BYTES = 4000
_RANK = re.compile(r"rank(\d+)\.log")


@dataclass(frozen=True)
class LogLine:
    """One line of a rank's log."""

    attempt: int
    rank: int
    text: str


class _Log:
    """One file, read on from where it was."""

    def __init__(self, path: Path, skips_old: bool) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        size = self._size()
        if skips_old and size > _BACKLOG_BYTES:
            self._offset = size - _BACKLOG_BYTES
            self._read()
            self._rest = self._rest.partition(b"\n")[2]

    def lines(self, is_over: bool) -> list[str]:
        """Return the lines that came since the last time; at the end also one without an end."""
        if self._size() > self._offset:
            self._read()
        whole, mark, rest = self._rest.rpartition(b"\n")
        if is_over and rest:
            whole, mark, rest = self._rest, b"\n", b""
        self._rest = rest
        if not mark:
            return []
        # of a progress bar, which goes back to the line's start, only the last state counts
        texts = whole.decode(errors="replace").split("\n")
        return [text.rstrip("\r").rpartition("\r")[2] for text in texts]

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:  # it was moved away this moment
            return
        self._offset += len(text)
        self._rest += text


class LogTail:
    """The logs of one run from now on.

    Args:
        run: the run.
        all_ranks: whether all ranks are read; otherwise rank 0 alone.
    """

    def __init__(self, run: RunFolder, *, all_ranks: bool) -> None:
        self._run = run
        self._all_ranks = all_ranks
        self._first = max(1, run.latest_attempt())
        self._logs: dict[tuple[int, int], _Log] = {}
        self._is_new = True

    def lines(self, latest: int, *, is_over: bool) -> list[LogLine]:
        """Return what came since the last time, by attempt and rank.

        Args:
            latest: the newest attempt.
            is_over: whether nothing more will come.
        """
        found: list[LogLine] = []
        for attempt in range(self._first, latest + 1):
            self._find(attempt)
            is_past = is_over or attempt < latest - 1
            for (number, rank), log in sorted(self._logs.items()):
                if number == attempt:
                    found += [LogLine(number, rank, text) for text in log.lines(is_past)]
        # the ranks of the attempt before may still write when the next is taken
        self._first = max(self._first, latest - 1)
        self._is_new = False
        return found

    def _find(self, attempt: int) -> None:
        folder = self._run.attempt(attempt)
        if not self._all_ranks:
            self._add((attempt, 0), folder.main_log)
            return
        for path in folder.logs.glob("rank*.log"):
            if match := _RANK.fullmatch(path.name):
                self._add((attempt, int(match[1])), path)

    def _add(self, key: tuple[int, int], path: Path) -> None:
        if key not in self._logs and path.exists():
            self._logs[key] = _Log(path, skips_old=self._is_new)
