"""Read single frames of a file through PyAV, from the nearest keyframe before each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from egovl.data.decode import DecodeError


class PyAVReader:
    """One open file, decoded on the calling thread.

    Frame numbers count presentation times in order, so they hold for any container, also one that
    states no frame count.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._container = av.open(str(path))
        except (FFmpegError, OSError) as error:
            raise DecodeError(path, None, f"cannot open: {error}") from error
        if not self._container.streams.video:
            raise DecodeError(path, None, "it has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1
        try:
            self._times, keyframes = _frame_times(self._container, self._stream)
        except FFmpegError as error:
            raise DecodeError(path, None, f"cannot read its packets: {error}") from error
        if not len(self._times):
            raise DecodeError(path, None, "it has no video frames")
        self._keyframes = np.searchsorted(self._times, keyframes)
        self._number_of = {time: number for number, time in enumerate(self._times.tolist())}
        # one reformatter keeps its conversion tables; a new one per frame costs more than a decode
        self._reformatter = VideoReformatter()
        self._decoded: Iterator[VideoFrame] = iter(())
        self._next = -1  # number of the frame that the decoder gives next; -1: seek first

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return len(self._times)

    @property
    def fps(self) -> float:
        """Average frames per second."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise DecodeError(self._path, None, "it states no frame rate")
        return float(rate)

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames of an increasing list of numbers, uint8 ``[N, H, W, 3]``."""
        if frames and not 0 <= frames[0] <= frames[-1] < self.num_frames:
            raise DecodeError(
                self._path, None, f"frames {frames[0]} .. {frames[-1]} of {self.num_frames}"
            )
        try:
            return np.stack([self._read_one(number) for number in frames])
        except FFmpegError as error:
            self._next = -1
            raise DecodeError(self._path, None, f"damaged data: {error}") from error
        except DecodeError:
            self._next = -1
            raise

    def _read_one(self, number: int) -> np.ndarray:
        keyframe = int(np.searchsorted(self._keyframes, number, side="right")) - 1
        start = int(self._keyframes[keyframe]) if keyframe >= 0 else 0
        if not 0 <= self._next <= number or start > self._next:
            self._seek(number, keyframe)
        for frame in self._decoded:
            found = self._number(frame)
            self._next = found + 1
            if found == number:
                return self._pixels(frame)
            if found > number:
                break
        raise DecodeError(self._path, None, f"frame {number} is missing from the data")

    def _seek(self, number: int, keyframe: int) -> None:
        """Place the decoder at or before a frame.

        A container may land behind the keyframe that was asked for (its index is in decoding time),
        so each try starts one keyframe earlier.
        """
        for candidate in range(keyframe, max(keyframe - 4, -1), -1):
            first = self._restart(int(self._times[self._keyframes[candidate]]))
            if first is not None and self._number(first) <= number:
                break
        else:
            first = self._restart(int(self._times[0]))
            if first is None or self._number(first) > number:
                raise DecodeError(self._path, None, f"frame {number} cannot be reached")
        self._decoded = _chain(first, self._decoded)
        self._next = self._number(first)

    def _restart(self, time: int) -> VideoFrame | None:
        self._container.seek(time, stream=self._stream, backward=True)
        self._decoded = self._container.decode(self._stream)
        return next(self._decoded, None)

    def _number(self, frame: VideoFrame) -> int:
        number = self._number_of.get(frame.pts) if frame.pts is not None else None
        if number is None:
            raise DecodeError(self._path, None, f"a frame has an unknown time ({frame.pts})")
        return number

    def _pixels(self, frame: VideoFrame) -> np.ndarray:
        if frame.is_corrupt:
            raise DecodeError(self._path, None, "damaged data: the decoder concealed an error")
        # one thread: a pool of threads per open file would also hang a forked copy that frees it
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4
        if not quarter_turns:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _chain(first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    yield first
    yield from rest


def _frame_times(container: InputContainer, stream: VideoStream) -> tuple[np.ndarray, np.ndarray]:
    """Presentation times of all frames in order, and those of keyframes, in the stream's time base.

    An mp4 without B-frames states them in its index, which spares reading the whole file. Otherwise
    all packets are read once.
    """
    entries = stream.index_entries
    if stream.frames and len(entries) == stream.frames and not stream.codec_context.has_b_frames:
        times = [(entry.timestamp, entry.is_keyframe) for entry in entries if not entry.is_discard]
    else:
        times = [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.pts is not None and not packet.is_discard
        ]
    every = np.array(sorted(time for time, _ in times), dtype=np.int64)
    keyframes = np.array(sorted(time for time, is_key in times if is_key), dtype=np.int64)
    return every, keyframes
