"""Configs of the benchmark and caption datasets. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egovl.data.configs import ChunkedVideoConfig
from egovl.data.types import VideoSource

if TYPE_CHECKING:
    from egovl.data.datasets.captions import Captions
    from egovl.data.datasets.charades_ego import CharadesEgo
    from egovl.data.datasets.egtea import EGTEA
    from egovl.data.datasets.epic_classification import EpicClassification
    from egovl.data.datasets.epic_retrieval import EpicRetrieval
    from egovl.data.datasets.episodic import EpisodicWindows
    from egovl.data.datasets.narrations import Narrations
    from egovl.data.datasets.state_change import Keyframes, StateChanges
    from egovl.data.datasets.windows import VideoWindows


def _choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; it must be one of {allowed}")


@dataclass(frozen=True, kw_only=True)
class NarrationsConfig(ChunkedVideoConfig):
    """LaViLa's lists of (video, start, end, text or texts): pkl, jsonl or parquet."""

    annotations: tuple[Path, ...]
    """Lists of human narrations, or of their rephrasings."""
    pseudo: tuple[Path, ...] = ()
    """Lists that a narrator wrote; label ``is_human`` is 0 for their rows."""
    name: Literal["narrations"] = "narrations"
    selection: Literal["random", "concat"] = "random"
    """Of several texts: one at each visit, or all joined by '. '."""
    cache_folder: Path | None = None
    """Where the converted lists are kept; None: beside the first one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("selection", self.selection, ("random", "concat"))
        if not self.annotations:
            raise ValueError("annotations is empty; name at least one list")

    def build(self) -> Narrations:
        """Read the lists, or their converted copy."""
        from egovl.data.datasets.narrations import Narrations

        return Narrations(self)


@dataclass(frozen=True, kw_only=True)
class _CaptionsConfig(ChunkedVideoConfig):
    """Tab separated captions of whole files, column 0 the text, column 1 the path's stem."""

    annotations: Path
    layout: Literal["egovlp", "lavila", "file"] = "file"
    fps: Literal["assume30", "probe"] = "probe"
    subsample: float = 1.0
    """Share of the rows that is kept, by a hash of their path."""
    max_rows: int | None = None
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("layout", self.layout, ("file",))
        if not 0 < self.subsample <= 1:
            raise ValueError(f"subsample is {self.subsample}; it must be in 0 .. 1, above 0")

    def _file(self, stem: str, suffix: str) -> VideoSource:
        return VideoSource(path=self.video_root / f"{stem}{suffix}", fps=None)

    def build(self) -> Captions:
        """Read the captions, or their converted copy."""
        from egovl.data.datasets.captions import Captions

        return Captions(self)


@dataclass(frozen=True, kw_only=True)
class WebVidConfig(_CaptionsConfig):
    """WebVid: whole videos with a caption (EgoVLP spec 3.13)."""

    name: Literal["webvid"] = "webvid"

    def source(self, video_uid: str) -> VideoSource:
        """The video of a stem."""
        return self._file(video_uid, ".mp4")


@dataclass(frozen=True, kw_only=True)
class CC3MConfig(_CaptionsConfig):
    """Conceptual Captions: pictures, read as videos of one frame (EgoVLP spec 3.13)."""

    name: Literal["cc3m"] = "cc3m"

    def source(self, video_uid: str) -> VideoSource:
        """The picture of a stem."""
        return self._file(video_uid, ".jpg")


@dataclass(frozen=True, kw_only=True)
class EpicConfig:
    """EPIC-KITCHENS-100: where its videos or frames lie."""

    annotations: Path
    """EPIC_100_*.csv"""
    video_root: Path
    manifest: Path | None = None
    """manifest.jsonl of `prepare videos`: rows of videos that it lacks are left out."""
    layout: Literal["video", "frames", "rgb_frames"] = "video"
    """video: <participant>/<video>.MP4, times in seconds (LaViLa); frames: <video>/frame_<10
    digits>.jpg, the csv's frame numbers (EgoVLP); rgb_frames: these below
    <participant>/rgb_frames/ (HierVL)."""

    def __post_init__(self) -> None:
        _choice("layout", self.layout, ("video", "frames", "rgb_frames"))


@dataclass(frozen=True, kw_only=True)
class EpicRetrievalConfig(EpicConfig):
    """EK-100 multi-instance retrieval."""

    name: Literal["ek100_mir"] = "ek100_mir"
    sentences: Path
    """EPIC_100_retrieval_*_sentence.csv: the unique sentences, which are searched."""
    relevancy: Path | None = None
    """Released matrix (npy, or its pickle); None: from the verb and noun classes, as defined."""
    min_relevancy: float = 0.1
    """Training draws a text among the sentences above this relevancy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.manifest is not None and self.relevancy is not None:
            raise ValueError(
                f"relevancy {self.relevancy} is of all rows, manifest {self.manifest} leaves some "
                "out: set one of them to null"
            )

    def build(self) -> EpicRetrieval:
        """Read the rows."""
        from egovl.data.datasets.epic_retrieval import EpicRetrieval

        return EpicRetrieval(self)


@dataclass(frozen=True, kw_only=True)
class EpicClassificationConfig(EpicConfig):
    """EK-100 action recognition: labels verb, noun and action."""

    name: Literal["ek100_cls"] = "ek100_cls"
    action_tables: tuple[Path, ...]
    """The csv files whose rows define the actions: training and validation."""

    def build(self) -> EpicClassification:
        """Read the rows."""
        from egovl.data.datasets.epic_classification import EpicClassification

        return EpicClassification(self)


@dataclass(frozen=True, kw_only=True)
class CharadesEgoConfig:
    """Charades-Ego, first-person videos."""

    annotations: Path
    """CharadesEgo_v1_{train,test}_only1st.csv"""
    classes: Path
    """Charades_v1_classes.txt"""
    video_root: Path
    manifest: Path | None = None
    """manifest.jsonl of `prepare videos`: videos that it lacks are left out."""
    name: Literal["charades_ego"] = "charades_ego"
    unit: Literal["video", "action"] = "video"
    """video: a whole video with all its classes; action: every action with its class and text."""
    seek_offset: int = 0
    """EgoVLP's numbers were produced with -1: one frame early."""
    legacy_length: bool = False
    """LaViLa: a whole video ends at the annotated length, not with the file."""

    def __post_init__(self) -> None:
        _choice("unit", self.unit, ("video", "action"))

    def build(self) -> CharadesEgo:
        """Read the rows."""
        from egovl.data.datasets.charades_ego import CharadesEgo

        return CharadesEgo(self)


@dataclass(frozen=True, kw_only=True)
class EGTEAConfig:
    """EGTEA Gaze+: trimmed clips of 106 actions."""

    annotations: Path
    """{train,test}_split1.txt"""
    classes: Path
    """action_idx.txt"""
    video_root: Path
    manifest: Path | None = None
    """manifest.jsonl of `prepare videos`: clips that it lacks are left out."""
    name: Literal["egtea"] = "egtea"

    def build(self) -> EGTEA:
        """Read the rows."""
        from egovl.data.datasets.egtea import EGTEA

        return EGTEA(self)


@dataclass(frozen=True, kw_only=True)
class StateChangeConfig(ChunkedVideoConfig):
    """Ego4D's state changes (fho_oscc-pnr_*.json): 16 frames of an 8 s clip."""

    annotations: Path
    extracted: bool = True
    """Frames as frames_jpeg[_neg]/<unique_id>/<frame>.jpeg below video_root; off: video files."""
    num_frames: int = 16
    spacing: Literal["multiples", "even"] = "multiples"
    """multiples: frame numbers that the spacing divides, as published; may leave out the end of a
    short window. even: the middles of equal parts."""
    max_clips: int | None = None
    """Reads only this many (as published: 1000, a leftover); None: all."""
    legacy_offset: bool = False
    """EgoVLP: the random start is drawn between 8 - length and 1 second, not 0 and 8 - length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("spacing", self.spacing, ("multiples", "even"))


@dataclass(frozen=True, kw_only=True)
class OSCCConfig(StateChangeConfig):
    """Whether an object changes its state; label ``state_change``."""

    name: Literal["oscc"] = "oscc"

    def build(self) -> StateChanges:
        """Read the clips."""
        from egovl.data.datasets.state_change import StateChanges

        return StateChanges(self)


@dataclass(frozen=True, kw_only=True)
class PNRConfig(StateChangeConfig):
    """At which of the frames it changes; label ``keyframe``, only clips with a change."""

    name: Literal["pnr"] = "pnr"

    def build(self) -> Keyframes:
        """Read the clips."""
        from egovl.data.datasets.state_change import Keyframes

        return Keyframes(self)


@dataclass(frozen=True, kw_only=True)
class EpisodicConfig(ChunkedVideoConfig):
    """Clips of Ego4D's NLQ or MQ as windows of a few frames, for dense features."""

    annotations: Path
    """nlq_*.json or moments_*.json"""
    name: Literal["episodic"] = "episodic"
    layout: Literal["egovlp", "lavila", "file"] = "file"
    features_per_sec: float = 1.87
    window_frames: int = 4
    """Frames behind one feature; the loader's num_frames. The next feature has the next ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("features_per_sec", "window_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    @property
    def stride_frames(self) -> int:
        """Frames from one feature to the next."""
        return self.window_frames

    @property
    def frames_per_sec(self) -> float:
        """Frames of a second that are looked at."""
        return self.features_per_sec * self.window_frames

    def build(self) -> EpisodicWindows:
        """Read the clips."""
        from egovl.data.datasets.episodic import EpisodicWindows

        return EpisodicWindows(self)


@dataclass(frozen=True, kw_only=True)
class VideoWindowsConfig:
    """Windows of a few frames over whole videos, for dense features of any video."""

    name: Literal["video_windows"] = "video_windows"
    manifest: Path | None = None
    """manifest.jsonl of `prepare videos`."""
    files: tuple[Path, ...] = ()
    """Videos of one's own, named after their files."""
    fps: float = 7.48
    """Frames a second that are looked at; EgoVLP's 1.87 features of 4 frames are 7.48."""
    window_frames: int = 4
    """Frames behind one feature; the loader's num_frames."""
    stride_frames: int = 4
    """Frames from one feature to the next."""

    @property
    def frames_per_sec(self) -> float:
        """Frames of a second that are looked at."""
        return self.fps

    def __post_init__(self) -> None:
        if self.manifest is None and not self.files:
            raise ValueError("no videos: give manifest=FILE or files=[FILE]")
        for name in ("fps", "window_frames", "stride_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    def build(self) -> VideoWindows:
        """Read the manifest, look at the files."""
        from egovl.data.datasets.windows import VideoWindows

        return VideoWindows(self)
