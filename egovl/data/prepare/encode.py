"""Encode frames as chunks that training reads fast: h264, many keyframes, no B-frames.

The encoder is the one inside PyAV's wheel; no system package is needed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from glob import escape
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

KEYFRAME_INTERVAL = 15  # a random clip decodes few frames (design, speed)
REPEATABLE = {
    "preset": "veryfast",
    "tune": "zerolatency",  # with look-ahead the same frames sometimes gave other bytes
    "crf": "18",
}
"""Equal frames give equal bytes."""


class ChunkEncoder:
    """Writes one mp4 beside its name and renames it at the end: a file that is there is whole.

    Args:
        path: The file; its folder is made.
        fps: Frames a second, constant.
        options: Of x264, beside those that make a chunk quick to read.
        keyframe_interval: Frames from one keyframe to the next.
    """

    def __init__(
        self,
        path: Path,
        fps: Fraction,
        options: Mapping[str, str],
        keyframe_interval: int = KEYFRAME_INTERVAL,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{escape(path.stem)}.*.part{path.suffix}"):
            left.unlink(missing_ok=True)  # by a process that was killed
        self.path = path
        self.count = 0
        self._beside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._step = 1 / fps
        settings = {
            **options,
            "bf": "0",
            "g": str(keyframe_interval),
            "keyint_min": "1",
            "sc_threshold": "0",
            "threads": "1",
        }
        self._container: OutputContainer = av.open(str(self._beside), "w", format="mp4")
        self._stream: VideoStream = self._container.add_stream(
            "libx264", rate=fps, options=settings
        )
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._step

    def add(self, frame: VideoFrame) -> None:
        """Add a frame of even size; the first one's is the video's."""
        if not self.count:
            self._stream.height, self._stream.width = frame.height, frame.width
        frame.pts, frame.time_base = self.count, self._step
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def close(self) -> None:
        """Write what is left and give the file its name."""
        self._container.mux(self._stream.encode())
        self._container.close()
        os.replace(self._beside, self.path)

    def discard(self) -> None:
        """Leave no file."""
        self._container.close()
        self._beside.unlink(missing_ok=True)


def encode_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> int:
    """Write RGB uint8 frames [H, W, 3] of even size as an mp4; returns how many.

    Equal frames give equal bytes.
    """
    encoder = ChunkEncoder(path, Fraction(fps), REPEATABLE)
    for image in frames:
        encoder.add(av.VideoFrame.from_ndarray(image, format="rgb24"))
    encoder.close()
    return encoder.count


@dataclass(frozen=True)
class Stretch:
    """Frames ``first .. end - 1`` of a file that `encode_video` wrote; ``first`` is a keyframe."""

    file: Path
    first: int
    end: int


def chain_videos(path: Path, stretches: Sequence[Stretch], fps: int) -> tuple[int, int]:
    """Put stretches of files one after the other without decoding them; returns height and width.

    All files must have been encoded alike, without B-frames.
    """
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    count = 0
    with av.open(str(stretches[0].file)) as first, av.open(str(beside), "w", format="mp4") as out:
        template = first.streams.video[0]
        height, width = template.height, template.width
        target = out.add_stream_from_template(template)
        for stretch in stretches:
            for packet in _packets(stretch):
                packet.stream = target
                packet.time_base = Fraction(1, fps)
                packet.pts = packet.dts = count
                packet.duration = 1
                out.mux(packet)
                count += 1
    beside.replace(path)
    return height, width


def _packets(stretch: Stretch) -> Iterator[Packet]:
    """One packet a frame, in order."""
    with av.open(str(stretch.file)) as source:
        whole = (packet for packet in source.demux(source.streams.video[0]) if packet.size)
        yield from itertools.islice(whole, stretch.first, stretch.end)
