"""Options of the preparation commands. Standard library only, so `--help` stays quick."""

from __future__ import annotations

from dataclasses import dataclass

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


def _check(field: str, value: int, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field}={value}: must be {allowed}")
