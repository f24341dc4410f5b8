"""Annotation tables of any size: converted once to Arrow files, memory mapped by every process.

A table of clips is a folder of three Arrow files:

- ``numbers.arrow``: one record batch of ``video, start_sec, end_sec, time_sec`` per row, and two
  orders of the rows, ``by_start`` and ``by_time``: by video first, so the rows of a video are one
  stretch of them (a CSR table with ``first`` below as its offsets);
- ``videos.arrow``: ``uid`` of each video and ``first``, where its stretch begins;
- ``columns.arrow``: what else a row holds (texts, tags), in batches of a fixed number of rows.

The folder is named after path, size and time of the annotation files, the converter's version and
its options, and lies in ``cache_folder``, else beside the annotations, else in a private folder of
this machine. It is made under another name and renamed; processes that want it wait for the one
that makes it. A process holds the map, not the rows: what it touches is the system's page cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egovl.data.manifest import load_manifest, report_left_out

log = logging.getLogger(__name__)

_FORMAT = 2  # of the folder
_BATCH_ROWS = 1 << 16  # rows of a batch of ``columns.arrow``
_NUMBERS = ("video", "start_sec", "end_sec", "time_sec", "by_start", "by_time")


@dataclass(frozen=True)
class Conversion:
    """How annotation files become a folder of Arrow files.

    Attributes:
        name: What is converted; part of the folder's name.
        version: Raised when the same files would give another folder.
        options: What else the result depends on.
        write: Fills an empty folder.
    """

    name: str
    version: int
    options: str
    write: Callable[[Path], None]


def converted(
    sources: Sequence[Path], conversion: Conversion, cache_folder: Path | None = None
) -> Path:
    """The folder made from annotation files, made now if it is missing or they have changed.

    Raises:
        FileNotFoundError: A source does not exist.
        OSError: No folder to keep the result in.
    """
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"annotations {source} does not exist")
    name = _folder_name(sources, conversion)
    for parent in (cache_folder or sources[0].parent, _private_folder()):
        folder = parent / name
        if folder.is_dir():
            return folder
        if _is_writable(parent):
            with _only_one(parent / f".{name}.lock"):
                if not folder.is_dir():
                    _make(folder, conversion)
            return folder
        log.info("cannot keep the converted annotations in %s", parent)
    raise OSError(
        f"no writable folder for the converted copy of {sources[0]}; set dataset.cache_folder"
    )


def _folder_name(sources: Sequence[Path], conversion: Conversion) -> str:
    parts = [f"{_FORMAT} {conversion.name} {conversion.version} {conversion.options}"]
    for source in sources:
        stat = source.stat()
        parts.append(f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{sources[0].name}.{conversion.name}-{key}"


def _private_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"egovl-tables-{os.getuid()}"


def _is_writable(parent: Path) -> bool:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            return True
    except OSError:
        return False


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a file alone; without file locks on this disk several may convert, and one wins."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.info("no file lock on %s: %s", path.parent, error)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _make(folder: Path, conversion: Conversion) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        conversion.write(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class ClipTableWriter:
    """Writes a table of clips row by row; `close` adds the orders.

    Args:
        folder: An empty folder.
        columns: Name and Arrow type of what a row holds beside its clip.
        manifest: Rows of videos that it lacks are left out.
    """

    def __init__(
        self, folder: Path, columns: Mapping[str, pa.DataType], manifest: Path | None = None
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._known = None if manifest is None else load_manifest(manifest).keys()
        self._left_out = 0
        self._schema = pa.schema(list(columns.items()))
        self._sink = pa.OSFile(str(folder / "columns.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._waiting: dict[str, list[Any]] = {name: [] for name in columns}
        self._video = array("i")
        self._seconds = (array("d"), array("d"), array("d"))
        self._uids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._video)

    @property
    def is_empty(self) -> bool:
        """Whether no row was added, nor left out."""
        return not len(self) + self._left_out

    def add(
        self, uid: str, start_sec: float, end_sec: float, time_sec: float, **columns: object
    ) -> None:
        """Add a row: a clip, the time it is found by, and the other columns."""
        if self._known is not None and uid not in self._known:
            self._left_out += 1
            return
        self._video.append(self._uids.setdefault(uid, len(self._uids)))
        for values, value in zip(self._seconds, (start_sec, end_sec, time_sec), strict=True):
            values.append(value)
        for name, waiting in self._waiting.items():
            waiting.append(columns[name])
        if len(self._video) % _BATCH_ROWS == 0:
            self._flush()

    def _flush(self) -> None:
        if self._waiting and next(iter(self._waiting.values())):
            self._writer.write_batch(pa.record_batch(self._waiting, schema=self._schema))
            for waiting in self._waiting.values():
                waiting.clear()

    def close(self) -> None:
        """Write what is left, the numbers and the orders.

        Raises:
            ValueError: The manifest has none of the videos.
        """
        if self._manifest is not None:
            total = len(self) + self._left_out
            report_left_out(self._left_out, total, self._manifest, "annotations")
        self._flush()
        self._writer.close()
        self._sink.close()
        video = np.frombuffer(self._video, dtype=np.int32)
        start, end, time = (np.frombuffer(x, dtype=np.float64) for x in self._seconds)
        rows = np.int32 if len(video) < 2**31 else np.int64
        columns: dict[str, np.ndarray] = dict(
            zip(
                _NUMBERS,
                (
                    video,
                    start,
                    end,
                    time,
                    np.lexsort((start, video)).astype(rows),
                    np.lexsort((time, video)).astype(rows),
                ),
                strict=True,
            )
        )
        _write_one(self._folder / "numbers.arrow", columns)
        counts = np.bincount(video, minlength=len(self._uids))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        _write_one(self._folder / "videos.arrow", {"uid": [*self._uids, ""], "first": first})


def _write_one(path: Path, columns: Mapping[str, Any]) -> None:
    batch = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _map_batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


class ClipTable:
    """``N`` clips of ``V`` videos in a mapped folder.

    Attributes:
        video: ``[N]`` int32, number of the video.
        start_sec: ``[N]`` float64. Likewise ``end_sec``.
        time_sec: ``[N]`` float64, the time a row is found by.
        by_start: ``[N]`` rows ordered by video, then start.
        by_time: ``[N]`` rows ordered by video, then time.
        first: ``[V + 1]`` where each video's rows begin in both orders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (numbers,) = _map_batches(folder / "numbers.arrow")
        (videos,) = _map_batches(folder / "videos.arrow")
        self.video, self.start_sec, self.end_sec, self.time_sec, self.by_start, self.by_time = (
            numbers.column(name).to_numpy() for name in _NUMBERS
        )
        self.first = videos.column("first").to_numpy()
        self._uids = videos.column("uid")
        self._batches = _map_batches(folder / "columns.arrow")

    def __len__(self) -> int:
        return len(self.video)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        # a started process maps the files again instead of receiving copies
        return ClipTable, (self.folder,)

    def value(self, column: str, row: int) -> Any:
        """What a row holds in another column, as a plain value."""
        batch, place = divmod(row, _BATCH_ROWS)
        return self._batches[batch].column(column)[place].as_py()

    def uid(self, row: int) -> str:
        """Video id of a row."""
        return self._uids[int(self.video[row])].as_py()

    def window(self, row: int, window_sec: float) -> int:
        """Number of the window of ``window_sec`` seconds that a row's time falls in."""
        return int(self.time_sec[row] // window_sec)

    def same_window(self, row: int, window_sec: float) -> np.ndarray:
        """Rows of the same video and window, the row itself included, increasing.

        Found by bisection in the video's stretch, whatever the size of the table.
        """
        video, wanted = int(self.video[row]), self.window(row, window_sec)
        places = range(int(self.first[video]), int(self.first[video + 1]))

        def window_at(place: int) -> int:
            return self.window(int(self.by_time[place]), window_sec)

        low = bisect_left(places, wanted, key=window_at)
        high = bisect_right(places, wanted, lo=low, key=window_at)
        return np.sort(self.by_time[places.start + low : places.start + high])
