"""Content hashes remembered by file state, so that an unchanged tree is not read again.

As in git's index, a hash counts only while times, size, inode and mode are the same, and only if
the file had not changed within a clock tick of being read.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_SCHEMA = 1
# Kernels stamp files with the time of the last tick, up to 10 ms old.
_TICK_NS = 10_000_000


@dataclass(frozen=True)
class StatCache:
    """Hashes of one source tree.

    Attributes:
        last: tree hash of the newest snapshot of this source, "" if there is none.
        started_ns: the file system's time before the first file was read.
        records: path -> mtime, ctime (ns), size, inode, mode, hash.
    """

    last: str = ""
    started_ns: int = 0
    records: dict[str, list[int | str]] = field(default_factory=dict[str, "list[int | str]"])

    def find(self, path: str, state: os.stat_result) -> str | None:
        """Return the hash of a file that has not changed since it was read, else None."""
        record = self.records.get(path)
        if (
            record is None
            or record[0] != state.st_mtime_ns
            or record[1] != state.st_ctime_ns
            or record[2] != state.st_size
            or record[3] != state.st_ino
            or record[4] != state.st_mode
            or state.st_ctime_ns >= self.started_ns - _TICK_NS
        ):
            return None
        return str(record[5])


def load_stat_cache(path: Path) -> StatCache:
    """Read a cache; a missing, damaged or older one is empty."""
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] == _SCHEMA:
            return StatCache(values["last"], values["started_ns"], values["records"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # everything is read again
    return StatCache()


def save_stat_cache(path: Path, cache: StatCache) -> None:
    """Replace the cache file; a reader sees the old or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with open(handle, "w", encoding="ascii") as file:
        values = {"last": cache.last, "started_ns": cache.started_ns, "records": cache.records}
        file.write(json.dumps({"schema": _SCHEMA, **values}))  # json.dump takes ten times longer
    os.replace(name, path)


def make_record(state: os.stat_result, digest: str) -> list[int | str]:
    """Return what `StatCache.records` keeps of one file."""
    times = [state.st_mtime_ns, state.st_ctime_ns]
    return [*times, state.st_size, state.st_ino, state.st_mode, digest]


def file_system_time_ns(folder: Path) -> int:
    """Return the present by the clock that stamps files in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime_ns
