"""Open video files, the least recently used closed first, every call under a time limit."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from egovl.data.decode import DecodeTimeoutError, VideoReader, choose_backend, open_reader
from egovl.data.sampling import VideoFacts
from egovl.data.time_limit import Result, TimeLimit

log = logging.getLogger(__name__)


class ReaderCache:
    """Readers of one process.

    A file that ran into the time limit is refused from then on without trying, since every further
    try could cost the limit again.
    """

    def __init__(self, backend: str, capacity: int, timeout_sec: float) -> None:
        self._backend = choose_backend(backend)
        self._capacity = capacity
        self._limit = TimeLimit(timeout_sec)
        self._readers: OrderedDict[Path, tuple[VideoReader, VideoFacts]] = OrderedDict()
        self._hung: set[Path] = set()
        self.opened = 0

    def facts(self, path: Path) -> VideoFacts:
        """Length and rate of a file.

        Raises:
            DecodeError: It cannot be opened.
        """
        return self._get(path)[1]

    def read(self, path: Path, frames: Sequence[int]) -> np.ndarray:
        """Frames of an increasing list of numbers, uint8 ``[N, H, W, 3]``.

        Raises:
            DecodeError: They cannot be read, or not in time.
        """
        reader = self._get(path)[0]
        return self._limited(path, lambda: reader.read(frames))

    def _get(self, path: Path) -> tuple[VideoReader, VideoFacts]:
        found = self._readers.get(path)
        if found is not None:
            self._readers.move_to_end(path)
            return found
        if path in self._hung:
            raise DecodeTimeoutError(path, None, "it ran into the time limit before")
        opened = self._limited(path, lambda: self._open(path))
        self.opened += 1
        self._readers[path] = opened
        if len(self._readers) > self._capacity:
            self._readers.popitem(last=False)
        return opened

    def _open(self, path: Path) -> tuple[VideoReader, VideoFacts]:
        reader = open_reader(path, self._backend)
        return reader, VideoFacts(reader.num_frames, reader.fps)

    def _limited(self, path: Path, call: Callable[[], Result]) -> Result:
        try:
            return self._limit.run(call)
        except TimeoutError as error:
            self._hung.add(path)
            self._readers.pop(path, None)
            log.warning("%s: %s; it is not tried again by this process", path, error)
            raise DecodeTimeoutError(path, None, str(error)) from error
