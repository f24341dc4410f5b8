"""Configs of the datasets of long videos. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egovl.data.configs import ChunkedVideoConfig, EgoClipConfig, _check

if TYPE_CHECKING:
    from egovl.data.datasets.anticipation import Anticipation
    from egovl.data.datasets.long_video import HowTo100M
    from egovl.data.datasets.summaries import ClipsAndSummaries, Summaries
    from egovl.data.datasets.summary_mcq import SummaryMCQ


@dataclass(frozen=True)
class SpreadConfig:
    """How the clips of a long video lie in it (HierVL spec 3.4)."""

    num_clips: int = 16
    clip_sec: float = 8.0
    """Length of a clip; that of the video, if it is shorter."""
    margin_sec: float = 1.0
    """The last clip ends as much before the end."""
    sec_per_clip: float | None = None
    """Above 0: a video has one clip for so many seconds, up to `num_clips`; the rest is masked."""
    legacy_backwards: bool = False
    """HierVL: where the clips do not fit, they march backwards, up to the margin before the start
    (parity: hiervl ``data``)."""

    def __post_init__(self) -> None:
        _check(self.num_clips >= 1, "num_clips", self.num_clips, "at least 1")
        _check(self.clip_sec > 0, "clip_sec", self.clip_sec, "more than 0 seconds")
        _check(self.margin_sec >= 0, "margin_sec", self.margin_sec, "0 seconds or more")
        per_clip = self.sec_per_clip
        _check(per_clip is None or per_clip > 0, "sec_per_clip", per_clip, "above 0, or unset")


@dataclass(frozen=True, kw_only=True)
class SummariesConfig(ChunkedVideoConfig):
    """Videos with summaries and the narrations below them (egosummary_full.csv)."""

    annotations: Path
    """egosummary_full.csv"""
    name: Literal["summaries"] = "summaries"
    hierarchy: Path | None = None
    """summary_clips_hierarchy_full.json, by summary text, or ours, by video and time."""
    narrations: Path | None = None
    """egoclip.csv; gives the narrations within each summary's time where no hierarchy is named."""
    same_source: bool = False
    """With `narrations`: only those of the summary's own annotation pass (an older variant)."""
    num_narrations: int = 16
    spread: SpreadConfig = field(default_factory=SpreadConfig)
    on_bad_row: Literal["raise", "skip"] = "raise"
    """A row that cannot be read: stop naming file and line, or skip and count it."""
    cache_folder: Path | None = None
    """Where the packed table is kept; None: beside the annotation file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.on_bad_row in ("raise", "skip"), "on_bad_row", self.on_bad_row, "raise or skip")
        _check(self.num_narrations >= 1, "num_narrations", self.num_narrations, "at least 1")
        one = (self.hierarchy is None) != (self.narrations is None)
        _check(one, "hierarchy", self.hierarchy, "given, or `narrations` in its place; not both")

    def build(self) -> Summaries:
        """Read the tables, or their packed copy."""
        from egovl.data.datasets.summaries import Summaries

        return Summaries(self)


@dataclass(frozen=True, kw_only=True)
class ClipsAndSummariesConfig(EgoClipConfig):
    """EgoClip with summaries as further clips: the ablation without a hierarchy (spec 3.10)."""

    name: Literal["clips_and_summaries"] = "clips_and_summaries"  # pyright: ignore
    summaries: Path
    """egosummary_full.csv"""
    seed: int = 0
    """Of the short clip that stands for each summary."""
    legacy_before: bool = False
    """HierVL: the clip lies before its summary's time, as the published bounds are inverted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        off = self.neg_window_sec is None
        _check(off, "neg_window_sec", self.neg_window_sec, "unset: summaries have no neighbours")

    def build(self) -> ClipsAndSummaries:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read both tables, or their packed copies."""
        from egovl.data.datasets.summaries import ClipsAndSummaries

        return ClipsAndSummaries(self)


@dataclass(frozen=True, kw_only=True)
class SummaryMCQConfig(ChunkedVideoConfig):
    """SummaryMCQ: which of five long videos a summary tells of."""

    annotations: Path
    """summarymcq_full.json"""
    name: Literal["summary_mcq"] = "summary_mcq"
    spread: SpreadConfig = field(default_factory=SpreadConfig)

    def build(self) -> SummaryMCQ:
        """Read the questions."""
        from egovl.data.datasets.summary_mcq import SummaryMCQ

        return SummaryMCQ(self)


@dataclass(frozen=True, kw_only=True)
class HowTo100MConfig:
    """HowTo100M's long-video classification: label ``label`` of the first 100 classes."""

    annotations: Path
    """howto100m_classification_{train,val}_sorted.csv"""
    video_root: Path
    name: Literal["howto100m"] = "howto100m"
    num_classes: int = 100
    """Rows of further classes are left out, as published."""
    spread: SpreadConfig = field(default_factory=SpreadConfig)
    seek_offset: int = 0
    """HierVL reads one frame early, -1."""
    legacy_wrap: bool = False
    """HierVL: behind 600 s a video's frames begin anew (parity: hiervl ``data``)."""

    def __post_init__(self) -> None:
        _check(self.num_classes >= 1, "num_classes", self.num_classes, "at least 1")
        _check(self.seek_offset in (0, -1), "seek_offset", self.seek_offset, "0 or -1")

    def build(self) -> HowTo100M:
        """Read the rows."""
        from egovl.data.datasets.long_video import HowTo100M

        return HowTo100M(self)


@dataclass(frozen=True, kw_only=True)
class AnticipationConfig(ChunkedVideoConfig):
    """Ego4D's long-term anticipation: actions seen, and those that follow (fho_lta_*.json)."""

    annotations: Path
    """fho_lta_{train,val}.json"""
    name: Literal["lta"] = "lta"
    layout: Literal["egovlp", "lavila", "file"] = "egovlp"
    num_observed: int = 16
    """Actions before the point of time, each a clip."""
    num_future: int = 20
    """Actions behind it: labels ``verb`` and ``noun`` of each."""
    short_start: Literal["skip", "repeat"] = "skip"
    """With fewer actions observed: leave the point out, or mask the clips that are not there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.num_observed >= 1, "num_observed", self.num_observed, "at least 1")
        _check(self.num_future >= 1, "num_future", self.num_future, "at least 1")

    def build(self) -> Anticipation:
        """Read the actions."""
        from egovl.data.datasets.anticipation import Anticipation

        return Anticipation(self)
