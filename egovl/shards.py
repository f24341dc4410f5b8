"""Records that many tasks of an array write and one reader takes together, each key once.

::

    <folder>/<shard>-of-<count>/<part>-<token>.jsonl    one per append, whole or not there
    <folder>/<shard>-of-<count>/DONE                    the shard has nothing left to do

A stopped task starts again and skips the keys it finds. Another number of tasks may finish what
the first number began. Two tasks that hold the same shard, as after a requeue that the first one
outlived, write parts of different names, and the reader takes the first record of a key.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from egovl.atomic import replacing

DONE = "DONE"
KEY = "key"
_Item = TypeVar("_Item")


def share_of(items: Sequence[_Item], shard: int, count: int) -> list[_Item]:
    """Items of shard ``shard`` of ``count``: a run of neighbours, so that shards keep the order.

    Raises:
        ValueError: There is no such shard.
    """
    _check(shard, count)
    total = len(items)
    return list(items[total * shard // count : total * (shard + 1) // count])


class ShardWriter:
    """Writes one shard's records; a second writer of the shard goes on where the first stopped."""

    def __init__(self, folder: Path, shard: int, count: int) -> None:
        _check(shard, count)
        self._folder = folder
        self._shard = folder / f"{shard:05d}-of-{count:05d}"
        self._shard.mkdir(parents=True, exist_ok=True)
        self._next = len(_parts(self._shard))

    def finished_keys(self) -> set[str]:
        """Keys that need no more work: this shard's, and those of any other number of shards."""
        count = self._shard.name.rpartition("-")[2]
        return {
            record[KEY]
            for shard in _shards(self._folder)
            if shard == self._shard or shard.name.rpartition("-")[2] != count
            for part in _parts(shard)
            for record in _read(part)
        }

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records, all or none; none is no part. The shard is then not done, if it was.

        Raises:
            ValueError: A record has no text ``key``.
            TypeError: A value that json has no word for.
        """
        for record in records:
            if not isinstance(record.get(KEY), str) or not record[KEY]:
                raise ValueError(f"{self._shard}: a record needs a text {KEY!r}: {dict(record)}")
        if not records:
            return
        lines = [json.dumps(dict(record)) + "\n" for record in records]
        (self._shard / DONE).unlink(missing_ok=True)
        with replacing(self._shard / f"{self._next:06d}-{secrets.token_hex(4)}.jsonl") as file:
            file.writelines(lines)
        self._next += 1

    def close(self) -> None:
        """Leave the mark that this shard is whole."""
        with replacing(self._shard / DONE):
            pass


def read_shards(folder: Path) -> Iterator[dict[str, Any]]:
    """Records of all shards, each key once, in the order of shard and part.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: A part that is not json lines; it names file and line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of shards: {folder}")
    seen: set[str] = set()
    for shard in _shards(folder):
        for part in _parts(shard):
            for record in _read(part):
                if record[KEY] not in seen:
                    seen.add(record[KEY])
                    yield record


def unfinished_shards(folder: Path, count: int) -> list[int]:
    """Numbers of the shards of ``count`` that lack their mark, those not begun included."""
    return [
        shard
        for shard in range(count)
        if not (folder / f"{shard:05d}-of-{count:05d}" / DONE).exists()
    ]


def _check(shard: int, count: int) -> None:
    if not 0 <= shard < count:
        raise ValueError(f"shard {shard} of {count}: shards are numbered 0 to {count - 1}")


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-of-[0-9]*"))


def _parts(shard: Path) -> list[Path]:
    return sorted(shard.glob("[0-9]*.jsonl"))


def _read(part: Path) -> Iterator[dict[str, Any]]:
    with part.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if not isinstance(record[KEY], str):
                    raise TypeError(f"its {KEY!r} is no text")
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{part}, line {number}: {error}; remove the file and run its shard again"
                ) from error
            yield record
