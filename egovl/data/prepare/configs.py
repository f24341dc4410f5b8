"""Options of the preparation commands. Standard library only, so `--help` stays quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FRAMES_PER_SEC = 30  # Ego4D's rate; the published readers assume it


@dataclass(frozen=True)
class SyntheticConfig:
    """What the rendered corpus contains. Equal configs render equal corpora.

    A video holds 20 clips, so the default is 2,600 training clips and 500 questions of each EgoMCQ
    type.
    """

    seed: int = 0
    train_videos: int = 130
    """Videos narrated in egoclip.csv."""
    eval_videos: int = 25
    """Held-out videos, seen only by egomcq.json."""
    size: int = 64
    """Height and width in pixels; even."""
    chunk_sec: int = 600
    """Length of one file `<video_uid>/<k>.mp4`; EgoVLP's is 600 s, longer than these videos."""
    trimmed_videos: int = 4
    """Videos of each split that are also cut into one file per action, as EGTEA's are."""

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        _check("seed", self.seed, self.seed >= 0, "0 or more")
        _check("train_videos", self.train_videos, self.train_videos >= 1, "1 or more")
        allowed = "5 or more: the choices of an inter-video question come from five videos"
        _check("eval_videos", self.eval_videos, self.eval_videos >= 5, allowed)
        _check("size", self.size, self.size >= 32 and self.size % 2 == 0, "even, 32 or more")
        _check("chunk_sec", self.chunk_sec, self.chunk_sec >= 1, "1 or more (whole seconds)")
        _check("trimmed_videos", self.trimmed_videos, self.trimmed_videos >= 1, "1 or more")


def _check(field: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field}={value}: must be {allowed}")


Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
Tune = Literal["fastdecode", "film", "animation", "grain", "stillimage"]


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How a video is scaled and encoded."""

    short_side: int | None = 288
    """Pixels of the shorter side; smaller videos stay as they are. null: none is scaled."""
    resize: Literal["short_side", "height"] = "short_side"
    """height: EgoVLP's, whose portrait videos end up narrower."""
    fps: float | None = None
    """Constant rate of the chunks; null: the source's average. Ego4D's readers assume 30."""
    chunk_sec: float | None = None
    """Seconds of a chunk; null: whole videos."""
    keyframe_interval: int = 15
    """Frames from one keyframe to the next."""
    crf: int = 23
    """x264's quality, 0 (lossless) to 51."""
    preset: Preset = "veryfast"
    """x264's effort."""
    tune: Tune | None = "fastdecode"
    """x264's tuning; fastdecode is read in half the time, for 7 % more bytes and 0.3 dB."""
    max_lost_share: float = 0.001
    """A video of which more frames than this are damaged is bad."""

    def __post_init__(self) -> None:
        """Refuse what no encoder takes."""
        side = self.short_side
        _check("short_side", side, side is None or side >= 2, "2 or more, or null")
        _check("resize", self.resize, self.resize in ("short_side", "height"), "a known rule")
        _check("fps", self.fps, self.fps is None or self.fps > 0, "above 0, or null")
        length = self.chunk_sec
        _check("chunk_sec", length, length is None or length > 0, "above 0, or null")
        _check(
            "keyframe_interval", self.keyframe_interval, self.keyframe_interval >= 1, "1 or more"
        )
        _check("crf", self.crf, 0 <= self.crf <= 51, "in 0 .. 51")
        share = self.max_lost_share
        _check("max_lost_share", share, 0 <= share <= 1, "in 0 .. 1")


@dataclass(frozen=True, kw_only=True)
class VideosConfig(EncodingConfig):
    """A folder of videos to a folder of chunks: `python -m egovl prepare videos`."""

    source: Path
    """Folder with the videos, at any depth."""
    out: Path
    """Folder of the chunks, and of manifest.jsonl."""
    layout: Literal["lavila", "egovlp", "file"] = "lavila"
    """<out>/ then lavila: <video>.mp4/<start second>.mp4; egovlp: <video>/<number>.mp4; file:
    one file, with the source's name."""
    only: Path | None = None
    """A text file with a video's name (its path without suffix) on each line; null: all."""
    subset: int | None = None
    """Only the first N, for a small start."""
    shard: int = 0
    shards: int = 1
    """This process makes part `shard` of `shards`."""
    workers: int | None = None
    """Videos at a time; null: one a core that the job has."""
    stall_sec: float = 300.0
    """A video that makes no progress for so long is bad."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        super().__post_init__()
        layouts = ("lavila", "egovlp", "file")
        _check("layout", self.layout, self.layout in layouts, f"one of {', '.join(layouts)}")
        is_file = self.layout == "file"
        allowed = "null with layout=file, seconds with the others"
        _check("chunk_sec", self.chunk_sec, (self.chunk_sec is None) == is_file, allowed)
        _check("subset", self.subset, self.subset is None or self.subset >= 1, "1 or more, or null")
        _check("shard", self.shard, 0 <= self.shard < self.shards, f"in 0 .. {self.shards - 1}")
        _check("workers", self.workers, self.workers is None or self.workers >= 1, "1 or more")
        _check("stall_sec", self.stall_sec, self.stall_sec > 0, "above 0")

    def facts(self) -> dict[str, Any]:
        """What all chunks of a folder have in common."""
        names = set(EncodingConfig.__dataclass_fields__) - {"max_lost_share"}
        return {k: v for k, v in asdict(self).items() if k in names} | {"layout": self.layout}
