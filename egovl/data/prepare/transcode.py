"""One video to chunks of a short side, a constant frame rate and many keyframes.

Frame ``i`` of the output shows what the source shows at ``i / fps`` seconds: readers count frames
and mean seconds. A source of that rate passes frame by frame; gaps repeat the last frame, surplus
frames are left out, and both are counted. No audio, no rotation, no B-frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from egovl.data.decode import DecodeError
from egovl.data.prepare.configs import EncodingConfig
from egovl.data.prepare.encode import ChunkEncoder
from egovl.data.pyav_reader import PyAVReader

_PROGRESS_FRAMES = 100
_TAIL_SEC = 1.0  # by which a container may overstate its length


@dataclass(frozen=True)
class Transcoded:
    """What became of a video.

    Attributes:
        files: Chunks, in order.
        frames: Frames of each.
        fps: Of the chunks.
        size: Height and width.
        source_fps: Average rate of the source.
        lost: Frames that the source should have and could not give.
        repeated: Frames that stand for one that the source lacks.
        left_out: Frames of the source beyond the rate.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...]
    fps: Fraction
    size: tuple[int, int]
    source_fps: float
    lost: int
    repeated: int
    left_out: int


def transcode(
    source: Path,
    chunk_file: Callable[[int], Path],
    config: EncodingConfig,
    progress: Callable[[int], None] = lambda frames: None,
) -> Transcoded:
    """Write a video's chunks; whole ones that are there are kept, and the rest is made.

    Args:
        source: A regular file.
        chunk_file: Path of a chunk by its number.
        config: Size, rate, length of a chunk.
        progress: Told the frames done so far, every so often.

    Raises:
        DecodeError: The file is no video, too much of it is damaged, or a written chunk does not
            hold what was put into it.
    """
    if not source.is_file():
        raise DecodeError(source, None, "no regular file")
    try:
        with av.open(str(source)) as container:
            return _Transcoding(source, container, chunk_file, config).run(progress)
    except (FFmpegError, OSError) as error:
        raise DecodeError(source, None, f"{type(error).__name__}: {error}") from error


class _Transcoding:
    """The state of one video's way through."""

    def __init__(
        self,
        source: Path,
        container: InputContainer,
        chunk_file: Callable[[int], Path],
        config: EncodingConfig,
    ) -> None:
        if not container.streams.video:
            raise DecodeError(source, None, "it has no video stream")
        self._source, self._container, self._config = source, container, config
        self._stream: VideoStream = container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise DecodeError(source, None, "it states no frame rate")
        self._source_fps = Fraction(rate)
        asked = config.fps
        self._fps = self._source_fps if asked is None else Fraction(asked).limit_denominator(1001)
        seconds = config.chunk_sec
        self._per_chunk = None if seconds is None else round(Fraction(seconds) * self._fps)
        self._chunk_file = chunk_file
        self._done: list[int] = self._whole_chunks()
        self._reformatter = VideoReformatter()
        self._encoder: ChunkEncoder | None = None
        self._next = sum(self._done)  # number of the next output frame
        self._decoded = self._expected = self._repeated = self._left_out = 0
        self._size = (0, 0)

    def run(self, progress: Callable[[int], None]) -> Transcoded:
        """Decode, scale and encode all that is missing."""
        try:
            self._fill(progress)
        finally:
            if self._encoder is not None:
                self._encoder.discard()
        lost = self._lost()
        if lost > self._config.max_lost_share * max(self._next, 1):
            total = self._next
            raise DecodeError(self._source, None, f"{lost} frames of about {total} are damaged")
        files = tuple(self._chunk_file(number) for number in range(len(self._done)))
        return Transcoded(
            files=files,
            frames=tuple(self._done),
            fps=self._fps,
            size=self._size if self._size[0] else _size_of(files[0]),
            source_fps=float(self._source_fps),
            lost=lost,
            repeated=self._repeated,
            left_out=self._left_out,
        )

    def _fill(self, progress: Callable[[int], None]) -> None:
        held: VideoFrame | None = None
        used, last = True, 0
        for slot, frame in self._slots():
            if held is not None:
                used = self._emit_until(held, slot, is_used=used)
                self._left_out += not used
            held, used = frame, slot < self._next
            self._decoded += 1
            if self._decoded % _PROGRESS_FRAMES == 0:
                progress(self._next)
            last = slot
        if held is None:
            raise DecodeError(self._source, None, "not one frame could be decoded")
        self._emit_until(held, last + 1, is_used=used)
        self._end_chunk()

    def _emit_until(self, frame: VideoFrame, slot: int, *, is_used: bool) -> bool:
        """Write a frame into the places before `slot`; returns whether it stands anywhere."""
        if self._next >= slot:
            return is_used
        picture = self._picture(frame)
        while self._next < slot:
            self._repeated += is_used
            self._write(picture)
            is_used = True
        return True

    def _write(self, picture: VideoFrame) -> None:
        if self._encoder is None:
            options = {"preset": self._config.preset, "crf": str(self._config.crf)}
            if self._config.tune:
                options["tune"] = self._config.tune
            path = self._chunk_file(len(self._done))
            interval = self._config.keyframe_interval
            self._encoder = ChunkEncoder(path, self._fps, options, interval)
        self._encoder.add(picture)
        self._next += 1
        if self._encoder.count == self._per_chunk:
            self._end_chunk()

    def _end_chunk(self) -> None:
        """Close a chunk and count what it holds."""
        encoder = self._encoder
        if encoder is None:
            return
        encoder.close()
        self._encoder = None
        found = PyAVReader(encoder.path).num_frames
        if found != encoder.count:
            encoder.path.unlink()
            reason = f"it holds {found} frames of {encoder.count}: is the disk full?"
            raise DecodeError(encoder.path, None, reason)
        self._done.append(encoder.count)

    def _slots(self) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their places in the output, from the first missing chunk on."""
        first, step = self._first_time(), Fraction(self._stream.time_base or Fraction(1, 90000))
        if self._next:
            wanted = first + math.floor(Fraction(self._next) / self._fps / step)
            self._container.seek(wanted, stream=self._stream, backward=True)
        is_first = True
        for frame in self._frames():
            if frame.pts is None:
                continue
            slot = round((frame.pts - first) * step * self._fps)
            if is_first and slot > self._next:
                raise DecodeError(self._source, None, f"output frame {self._next} is out of reach")
            is_first = False
            if slot >= 0:
                yield slot, frame

    def _first_time(self) -> int:
        """Time of the first frame that decodes, in the stream's units."""
        first = next((frame.pts for frame in self._frames() if frame.pts is not None), None)
        if first is None:
            raise DecodeError(self._source, None, "not one frame could be decoded")
        self._expected = 0
        self._container.seek(first, stream=self._stream, backward=True)
        return first

    def _frames(self) -> Iterator[VideoFrame]:
        """Frames as they come; a packet that does not decode is passed over, and missed later."""
        for packet in self._container.demux(self._stream):
            self._expected += packet.size > 0 and not packet.is_discard
            try:
                decoded: list[Any] = packet.decode()
            except FFmpegError:
                continue
            yield from (frame for frame in decoded if not frame.is_corrupt)

    def _lost(self) -> int:
        """Frames that the packets promised, and those of a tail that is not there."""
        missing = max(0, self._expected - self._decoded)
        seconds = self._stated_sec()
        if seconds is None:
            return missing
        return max(missing, math.floor((seconds - Fraction(_TAIL_SEC)) * self._fps) - self._next)

    def _stated_sec(self) -> Fraction | None:
        """Length of the video as the file states it."""
        step, length = self._stream.time_base, self._stream.duration
        if step is not None and length is not None:
            return length * step
        whole = self._container.duration
        if whole is None or self._container.streams.audio:  # sound may go on for longer
            return None
        return Fraction(whole, av.time_base)

    def _whole_chunks(self) -> list[int]:
        """Frames of the full chunks that an earlier try has left, up to the first gap."""
        found: list[int] = []
        while self._per_chunk is not None and self._chunk_file(len(found)).is_file():
            path = self._chunk_file(len(found))
            if PyAVReader(path).num_frames != self._per_chunk:
                break
            found.append(self._per_chunk)
        return found

    def _picture(self, frame: VideoFrame) -> VideoFrame:
        """The frame upright, scaled, in the encoder's colours."""
        turns = round(frame.rotation / 90) % 4
        height, width = frame.height, frame.width
        if turns:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            upright: Any = np.ascontiguousarray(np.rot90(rgb, turns))
            frame = VideoFrame.from_ndarray(upright, "rgb24")
            height, width = frame.height, frame.width
        if not self._size[0]:
            self._size = scaled_size(height, width, self._config)
        return self._reformatter.reformat(
            frame,
            width=self._size[1],
            height=self._size[0],
            format="yuv420p",
            interpolation="BICUBIC",
            threads=1,
        )


def scaled_size(height: int, width: int, config: EncodingConfig) -> tuple[int, int]:
    """Even height and width of the output; a smaller picture is not made larger (LaViLa 3.1)."""
    side = height if config.resize == "height" else min(height, width)
    scale = Fraction(1) if config.short_side is None else Fraction(config.short_side, side)
    scale = min(scale, Fraction(1))
    return _even(height * scale), _even(width * scale)


def _even(length: Fraction) -> int:
    """As EgoVLP rounds (its spec, 1.1)."""
    return max(2, 2 * math.floor(length / 2))


def _size_of(path: Path) -> tuple[int, int]:
    height, width = PyAVReader(path).read([0]).shape[1:3]
    return height, width
