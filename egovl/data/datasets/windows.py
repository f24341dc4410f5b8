"""Windows of a few frames over whole videos, for dense features of any video.

Frames are taken at a fixed rate, whatever the video's; a window begins every ``stride_frames`` of
them. A sample is one window, so a long video is never in memory at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from egovl.data.datasets.configs import VideoWindowsConfig
from egovl.data.decode import open_reader
from egovl.data.manifest import PreparedVideo, load_manifest
from egovl.data.types import ClipRef, Sample, Span, VideoSource


@dataclass(frozen=True, slots=True)
class WindowedVideo:
    """A video and what of it is known without reading a frame."""

    name: str
    source: VideoSource
    num_frames: int
    fps: float


class VideoWindows:
    """Every window of every video; labels ``video``, its number, and ``window``, its place.

    Attributes:
        names: Of the videos, by their number.

    Raises:
        FileNotFoundError: The manifest or a file is missing.
        DecodeError: A file that is no video.
        ValueError: Two videos of one name.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(
        self, config: VideoWindowsConfig, videos: list[WindowedVideo] | None = None
    ) -> None:
        self._config = config
        self._videos = _find_videos(config) if videos is None else videos
        self.names = [video.name for video in self._videos]
        if len(set(self.names)) < len(self.names):
            doubles = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"two videos are called {doubles[0]!r}: rename one of the files")
        self._ends = np.cumsum([self.num_windows(k) for k in range(len(self._videos))])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        number = int(np.searchsorted(self._ends, index, side="right"))
        video = self._videos[number]
        place = index - (int(self._ends[number - 1]) if number else 0)
        first = place * self._config.stride_frames
        samples = range(first, first + self._config.window_frames)
        last = video.num_frames - 1
        frames = tuple(min(round(k * video.fps / self._config.fps), last) for k in samples)
        span = Span(frames[0] / video.fps, (frames[-1] + 1) / video.fps)
        clip = ClipRef(video.source, span, frames=frames)
        return Sample(index, (clip,), ("",), {"video": number, "window": place})

    def chunk_of(self, index: int) -> str:
        """Video of a window."""
        return self.names[int(np.searchsorted(self._ends, index, side="right"))]

    def num_windows(self, number: int) -> int:
        """Windows of a video: those that are full, or one where the video is shorter."""
        video, config = self._videos[number], self._config
        samples = int(video.num_frames * config.fps / video.fps)
        return max(0, samples - config.window_frames) // config.stride_frames + 1

    def only(self, names: Collection[str]) -> VideoWindows:
        """The windows of some videos."""
        wanted = set(names)
        return VideoWindows(self._config, [v for v in self._videos if v.name in wanted])


def _find_videos(config: VideoWindowsConfig) -> list[WindowedVideo]:
    videos = [_probe(file) for file in config.files]
    if config.manifest is not None:
        folder = config.manifest.parent
        videos += [_prepared(v, folder) for v in load_manifest(config.manifest).values()]
    return videos


def _probe(file: Path) -> WindowedVideo:
    if not file.is_file():
        raise FileNotFoundError(f"no video at {file}")
    reader = open_reader(file)
    source = VideoSource(path=file, fps=reader.fps)
    return WindowedVideo(file.stem, source, reader.num_frames, reader.fps)


def _prepared(video: PreparedVideo, folder: Path) -> WindowedVideo:
    """Where the frames of a line of a manifest are, in one file or in chunks of one length."""
    first = folder / video.files[0]
    if len(video.files) == 1:
        return WindowedVideo(
            video.name, VideoSource(path=first, fps=video.fps), video.num_frames, video.fps
        )
    second = PurePosixPath(video.files[1]).stem
    source = VideoSource(
        path=first.parent,
        chunk_sec=video.frames[0] / video.fps,
        chunk_names="index" if second == "1" else "start",
        fps=video.fps,
    )
    return WindowedVideo(video.name, source, video.num_frames, video.fps)
