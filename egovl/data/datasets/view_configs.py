"""Configs of the cross-view datasets and of the captioner's prompts. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from egovl.data.datasets.caption_prompts import CaptionPrompts
    from egovl.data.datasets.view_pairs import ViewPairsDataset
    from egovl.data.datasets.view_sets import ViewSet

PromptFormat = Literal["simple", "llama2", "idefics"]
SetName = Literal["youcook", "charades_ego", "egolearn", "egomcq", "egosumm", "ek100"]


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class ViewPairsConfig:
    """Clips of both views as second-features, with their words (Egoinstructor spec 3.5)."""

    ego: Path
    """Json of ego clips: vid, start_second, end_second, text, noun, verb, nv_index."""
    exo: Path
    """Json of instructional clips; refined_text too."""
    ego_features: Path
    """A store of features, one a second and video."""
    exo_features: Path
    name: Literal["view_pairs"] = "view_pairs"
    pair_num: int = 1
    """Partners of a clip in a batch."""
    expand_sec: float = 10.0
    """An instructional clip of a second or less is widened by this much."""
    clean_narrations: bool = True
    mine_partners: bool = False
    """Partners are the exo clips that share a noun and a verb; off: as nv_index names them."""
    num_nouns: int = 582
    num_verbs: int = 118
    legacy_pair_vectors: bool = False
    """The tags of a rejected partner stay (parity: egoinstructor retrieval_dataset)."""

    def __post_init__(self) -> None:
        _require(self.pair_num >= 0, "pair_num", self.pair_num, "0 or more")
        _require(self.expand_sec >= 0, "expand_sec", self.expand_sec, "0 or more seconds")
        for name in ("num_nouns", "num_verbs"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    def build(self) -> ViewPairsDataset:
        """Read the clips."""
        from egovl.data.datasets.view_pairs import ViewPairsDataset

        return ViewPairsDataset(self)


@dataclass(frozen=True, kw_only=True)
class ViewSetConfig:
    """One of the retriever's six evaluation sets (Egoinstructor spec 3.6)."""

    benchmark: SetName
    annotations: Path
    """The set's json; of ek100 EPIC_100_retrieval_test.csv."""
    features: Path
    """Features of all clips; of charades_ego and egolearn those of the ego view."""
    exo_features: Path | None = None
    """Those of the other view; null: the same store."""
    sentences: Path | None = None
    """ek100: EPIC_100_retrieval_test_sentence.csv."""
    relevancy: Path | None = None
    """ek100: the released matrix; null: from the classes."""
    name: Literal["view_set"] = "view_set"
    context_length: int | None = None
    """Most tokens of a text; null: the published 77 for ek100 and egomcq, else the tokenizer's."""

    def __post_init__(self) -> None:
        allowed = get_args(SetName)
        _require(self.benchmark in allowed, "benchmark", self.benchmark, f"one of {allowed}")
        searched = self.benchmark != "ek100" or self.sentences is not None
        _require(searched, "sentences", self.sentences, "given for ek100")

    def build(self) -> ViewSet:
        """Read the set."""
        from egovl.data.datasets.view_sets import build_view_set

        return build_view_set(self)


@dataclass(frozen=True, kw_only=True)
class CaptionPromptsConfig:
    """The captioner's records and their supports (Egoinstructor spec 3.2, 3.3)."""

    instructions: Path
    """*_instructions.json: every record."""
    supports: Path
    """*_config.json: supports of each ego clip, the best first; or the folder of shards that
    `retrieve` wrote."""
    ego_root: Path
    """<vid>/<4-digit number>.mp4, or the plain number."""
    exo_root: Path
    """<vid>.mp4, whole."""
    name: Literal["caption_prompts"] = "caption_prompts"
    max_shot: int = 4
    """Supports in a prompt."""
    with_supports: bool = True
    """Off: the ego clip alone, without the text-only example that 0 shots have."""
    format: PromptFormat = "simple"
    system: str = ""
    clean_narrations: bool = False
    use_chat: bool = False
    ego_chunk_sec: int | None = 300
    """Length of an ego file; null: whole files <vid>.mp4."""
    ego_fps: float = 30.0
    exo_chunk_sec: int | None = None
    exo_fps: float = 25.0
    """Of exo chunks; whole files have their own."""
    kept_clips_mb: float = 256.0
    """Memory of each loading process for clips it has read: a support stands in many prompts. The
    batches are the same with 0."""
    legacy_15s_roots: bool = False
    """Chunk lengths are guessed from "15s" in the folders' names, as published."""
    legacy_random_case: bool = False
    """The question's first letter is random at test too (parity: text_processing)."""
    legacy_bootstrap_sampler: bool = False
    """A fixed draw with replacement stands for the set (parity: legacy_bootstrap_sampler)."""

    def __post_init__(self) -> None:
        _require(self.max_shot >= 0, "max_shot", self.max_shot, "0 or more")
        allowed = get_args(PromptFormat)
        _require(self.format in allowed, "format", self.format, f"one of {allowed}")
        for name in ("ego_chunk_sec", "exo_chunk_sec"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1 second, or null")
        for name in ("ego_fps", "exo_fps"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        kept = self.kept_clips_mb
        _require(kept >= 0, "kept_clips_mb", kept, "0 or more")

    def build(self) -> CaptionPrompts:
        """Read the records."""
        from egovl.data.datasets.caption_prompts import CaptionPrompts

        return CaptionPrompts(self)


@dataclass(frozen=True, kw_only=True)
class SupportsConfig:
    """For every ego clip the nearest instructional clips (Egoinstructor, stage 6)."""

    ego: Path
    """Json of the ego clips, keys from 0."""
    exo: Path
    """Json of the instructional clips."""
    ego_features: Path
    """A store of features, one a second and video."""
    exo_features: Path
    out: Path
    """Folder of the shards and of the captioner's files, the same for all shards."""
    files: str = "E4DOL_supports"
    """What the captioner's files begin with: <files>_instructions.json, <files>_config.json."""
    top: int = 15
    """Supports of a clip."""
    frames: int = 32
    """Features of a clip."""
    seconds_per_feature: float = 1.0
    """What the clips' times count, in seconds; the captioner's files are in seconds."""
    shard: int = 0
    shards: int = 1
    """This process takes part `shard` of `shards` of the ego clips."""

    def __post_init__(self) -> None:
        _require(bool(self.files) and "/" not in self.files, "files", self.files, "a plain name")
        for name in ("top", "frames", "shards"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        scale = self.seconds_per_feature
        _require(scale > 0, "seconds_per_feature", scale, "above 0")
        _require(0 <= self.shard < self.shards, "shard", self.shard, f"in 0 .. {self.shards - 1}")
