"""Remove code copies that nobody needs: `collect_garbage`.

A snapshot is needed while a run folder or an array's index refers to it, and for a while after a
launch took it (`.used/`, see `jobs.snapshot`): a launch names its run only after that. One that
goes is renamed first and looked at again, so that a launch that takes it in that moment either is
seen here, or sees that it is away and writes it anew. Checkpoints are not touched.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.configuration_check import CHECKED
from jobs.errors import RunError
from jobs.run_folder import RunFolder
from jobs.snapshot import HALF_WRITTEN, REMOVED, USED, USERS, move_away, read_users
from jobs.stat_cache import file_system_time_ns

logger = logging.getLogger(__name__)

# From a launch's look at its snapshot to its run folder; also how long a copy may take to write.
LAUNCH_SEC = 3600
ENDED = ("done", "failed", "cancelled")

_REFERENCE = re.compile(rb'"snapshot_hash": "([0-9a-f]{40})"')
_HASH = re.compile(r"[0-9a-f]{40}")
_DEPTH = 4  # runs/<kind>/<name>, and a level or two for those who sort theirs


@dataclass(frozen=True)
class Removal:
    """A snapshot, or a leftover of an interrupted copy or removal.

    Attributes:
        freed: bytes that no other snapshot shares.
        used: seconds since the epoch when a launch last took it.
    """

    name: str
    freed: int
    used: float


@dataclass(frozen=True)
class Garbage:
    """What was, or with `dry_run` would be, removed.

    Attributes:
        kept: snapshots that stay.
    """

    snapshots: list[Removal] = field(default_factory=list[Removal])
    leftovers: list[Removal] = field(default_factory=list[Removal])
    kept: int = 0

    @property
    def freed(self) -> int:
        """Bytes in all."""
        return sum(each.freed for each in (*self.snapshots, *self.leftovers))


def collect_garbage(
    store: Path,
    runs: Path,
    *,
    older_than_sec: float = 0,
    finished: bool = False,
    dry_run: bool = False,
) -> Garbage:
    """Remove the snapshots that no run refers to, and what interrupted copies left.

    Args:
        store: folder of the snapshots.
        runs: folder of the runs; others whose launches used the store are known from it.
        older_than_sec: only what no launch took for so long.
        finished: also those all of whose runs are done, failed or cancelled; such a run can only
            be launched again from its source, not resumed.
        dry_run: remove nothing.

    Raises:
        RunError: if a folder of runs or a run cannot be read: it might refer to anything.
    """
    if not store.is_dir():
        return Garbage()
    store = store.resolve()
    folders = sorted({runs.resolve(), *read_users(store)})
    now = file_system_time_ns(store) / 1e9
    before = now - max(older_than_sec, LAUNCH_SEC)
    needed = find_references(folders, now, finished=finished)
    used = {name: last_used(store, name) for name in os.listdir(store) if _HASH.fullmatch(name)}
    going = sorted(name for name, time in used.items() if name not in needed and time < before)
    leftovers = _old_leftovers(store, now - LAUNCH_SEC)
    leftovers = [name for name in leftovers if dry_run or not _put_back(store, name, needed)]
    sizes = _freed_bytes(store, [*leftovers, *going])
    if not dry_run:
        going = _remove(
            store, going, before, lambda: find_references(folders, now, finished=finished)
        )
        for name in leftovers:
            _remove_folder(store / name)
    return Garbage(
        [Removal(name, sizes[name], used[name]) for name in going],
        [Removal(name, sizes[name], 0.0) for name in leftovers],
        kept=len(used) - len(going),
    )


def find_references(folders: Iterable[Path], now: float, *, finished: bool) -> set[str]:
    """Return the hashes of the snapshots that a run or an array refers to.

    Args:
        folders: of runs.
        now: seconds since the epoch.
        finished: whether a run that ended some time ago needs none.

    Raises:
        RunError: if anything cannot be read.
    """
    needed: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            _explain_absent(folder)
            continue
        try:
            for path in _run_folders(folder):
                if not (finished and _has_ended(RunFolder(path), now)):
                    needed |= _hashes_in(path / "run.json")
            for index in folder.glob(".arrays/*/index.jsonl"):
                if not (finished and _has_array_ended(index, folder, now)):
                    needed |= _hashes_in(index)
        except OSError as error:
            raise RunError(f"nothing removed, as a run cannot be read: {error}") from error
    return needed


def last_used(store: Path, name: str) -> float:
    """Return when a launch last took a snapshot, by the clock of the store's disk."""
    notes = [store / name, *(store / USED).glob(f"{name}.*")]
    return max((_modified(note) for note in notes), default=0.0)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _explain_absent(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise RunError(
            f"nothing removed: runs of {folder} use these snapshots and it is not there; if it is "
            f"gone for good, delete its line in the store's {USERS}"
        )


def _run_folders(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        below = [e for e in entries if e.is_dir() and not e.name.startswith(".")]
    for entry in below:
        if os.path.exists(f"{entry.path}/run.json"):
            yield Path(entry.path)
        elif depth > 1:
            yield from _run_folders(Path(entry.path), depth - 1)


def _hashes_in(path: Path) -> set[str]:
    """Return the hashes that a file names: a run's in all, an array's index in its first line."""
    with path.open("rb") as file:
        text = file.readline() if path.suffix == ".jsonl" else file.read()
    found = {match.decode() for match in _REFERENCE.findall(text)}
    if not found:
        try:
            json.loads(text)
        except ValueError:
            raise RunError(f"nothing removed: {path} is damaged; delete its folder") from None
    return found


def _has_ended(run: RunFolder, now: float) -> bool:
    # the batch shell has a last word after the final state
    state = run.read_state()
    return state.get("state") in ENDED and float(state.get("updated", now)) < now - LAUNCH_SEC


def _has_array_ended(index: Path, runs: Path, now: float) -> bool:
    with index.open(encoding="utf-8") as file:
        kind = json.loads(file.readline())["facts"]["kind"]
        return all(_has_ended(RunFolder(runs / kind / json.loads(line)[0]), now) for line in file)


def _old_leftovers(store: Path, before: float) -> list[str]:
    names = (name for name in os.listdir(store) if name.startswith((HALF_WRITTEN, REMOVED)))
    found: list[str] = []
    for name in names:
        try:
            state = os.lstat(store / name)
        except FileNotFoundError:
            continue
        if max(state.st_mtime, state.st_ctime) < before:
            found.append(name)
    return sorted(found)


def _remove(
    store: Path, names: Sequence[str], before: float, references: Callable[[], set[str]]
) -> list[str]:
    """Rename, look again, then delete; return what is gone."""
    away = {name: moved for name in names if (moved := move_away(store / name)) is not None}
    needed = references() if away else set[str]()
    gone: list[str] = []
    for name, moved in away.items():
        if (name in needed or last_used(store, name) >= before) and _move_back(moved, store / name):
            continue
        _remove_folder(moved)
        gone.append(name)
        for note in (store / USED).glob(f"{name}.*"):
            if _modified(note) < before:
                note.unlink(missing_ok=True)
        for verdict in (store / CHECKED).glob(f"{name}.*"):
            verdict.unlink(missing_ok=True)
    return gone


def _move_back(moved: Path, place: Path) -> bool:
    try:
        moved.rename(place)
    except OSError:
        logger.debug("%s was written anew meanwhile", place)
        return False
    return True


def _put_back(store: Path, leftover: str, needed: set[str]) -> bool:
    """Undo a renaming whose process was killed before it could look again."""
    name = leftover.removeprefix(REMOVED)[:40]
    is_needed = leftover.startswith(REMOVED) and name in needed and not (store / name).exists()
    return is_needed and _move_back(store / leftover, store / name)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _freed_bytes(store: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the bytes per folder that nothing outside of these folders shares.

    Bytes that several of them share count for the last of them.
    """
    seen: dict[tuple[int, int], int] = {}
    freed: dict[str, int] = {}
    for name in names:
        freed[name] = 0
        for path, _, files in os.walk(store / name):
            for file in files:
                try:
                    state = os.lstat(os.path.join(path, file))
                except FileNotFoundError:
                    continue
                key = (state.st_dev, state.st_ino)
                seen[key] = seen.get(key, 0) + 1
                if seen[key] == state.st_nlink:
                    freed[name] += state.st_blocks * 512
    return freed
