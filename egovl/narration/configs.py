"""Configs of the jobs that write texts about clips. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from egovl.models.generation.configs import GenerationConfig
from egovl.tasks.configs import Normalization

if TYPE_CHECKING:
    from egovl.narration.filter import Filter
    from egovl.narration.narrate import Narrate
    from egovl.narration.rephrase import Rephrase


@dataclass(frozen=True)
class UncoveredConfig:
    """Clips between the annotated ones.

    The rule: of each annotated video, the time from 0 to the end of its last annotation that no
    annotation covers. Stretches shorter than `min_sec` are left out; the others are cut into equal
    clips, as few as keep each within `max_sec`. (How LaViLa chose its own is not known.)
    """

    min_sec: float = 1.0
    max_sec: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.min_sec <= self.max_sec:
            raise ValueError(f"min_sec={self.min_sec}, max_sec={self.max_sec}: need 0 < min <= max")


@dataclass(frozen=True)
class NarrateConfig:
    """A narrator's texts for every clip. Defaults: LaViLa's, ten nucleus samples (its spec, 7)."""

    name: Literal["narrate"] = "narrate"
    normalization: Normalization = "clip"
    generation: GenerationConfig = field(
        default_factory=lambda: GenerationConfig(
            top_p=0.95, temperature=0.7, num_return_sequences=10
        )
    )
    uncovered: UncoveredConfig | None = None
    """Set: not the annotated clips, but those between them."""

    def build(self) -> Narrate:
        """The job."""
        from egovl.narration.narrate import Narrate

        return Narrate(self)


@dataclass(frozen=True)
class RephraseConfig:
    """Paraphrases of each narration by a sequence-to-sequence model (LaViLa spec 3.5)."""

    name: Literal["rephrase"] = "rephrase"
    prefix: str = "paraphrase: "
    """What the model wants before a sentence."""
    generation: GenerationConfig = field(
        default_factory=lambda: GenerationConfig(
            strategy="diverse_beam",
            num_beams=20,
            num_beam_groups=20,
            diversity_penalty=0.7,
            num_return_sequences=20,
        )
    )
    keep: int = 3
    """Most paraphrases of a text, the best ones that differ from it and from each other."""
    include_original: bool = True
    """The narration itself comes first."""
    strip_punctuation: bool = True

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep={self.keep}: must be at least 1")

    def build(self) -> Rephrase:
        """The job."""
        from egovl.narration.rephrase import Rephrase

        return Rephrase(self)


@dataclass(frozen=True)
class FilterConfig:
    """Which texts to keep, by their cosine with the clip in a dual encoder's space.

    All conditions that are set must hold; a clip that keeps no text is left out.
    """

    name: Literal["filter"] = "filter"
    normalization: Normalization = "clip"
    min_score: float | None = None
    """Least cosine."""
    best_of_clip: int | None = None
    """Keep this many texts of a clip, the best."""
    best_fraction: float | None = None
    """Keep this share of all texts of the corpus, the best."""

    def __post_init__(self) -> None:
        if self.min_score is None and self.best_of_clip is None and self.best_fraction is None:
            raise ValueError("min_score, best_of_clip and best_fraction are null: set one or more")
        if self.best_of_clip is not None and self.best_of_clip < 1:
            raise ValueError(f"best_of_clip={self.best_of_clip}: must be at least 1")
        if self.best_fraction is not None and not 0 < self.best_fraction <= 1:
            raise ValueError(f"best_fraction={self.best_fraction}: must be above 0, at most 1")

    def build(self) -> Filter:
        """The job."""
        from egovl.narration.filter import Filter

        return Filter(self)


JOBS = {"narrate": NarrateConfig, "rephrase": RephraseConfig, "filter": FilterConfig}
"""Value of ``write.job.name`` in a recipe -> its config class."""
