"""Config of caption training and evaluation; light, so that a recipe is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egovl.models.generation.configs import GenerationConfig
from egovl.tasks.configs import Normalization

if TYPE_CHECKING:
    from egovl.tasks.narration import Narration


@dataclass(frozen=True)
class NarrationConfig:
    """Writing what a clip shows: a narrator; or a language model alone (LaViLa spec 4, 6.3).

    Needs a tokenizer of captions (`gpt2`).
    """

    name: Literal["narration"] = "narration"
    normalization: Normalization = "clip"
    text_only: bool = False
    """Train a language model on the texts; the clips are not looked at."""
    generation: GenerationConfig = field(
        default_factory=lambda: GenerationConfig(strategy="greedy")
    )
    """How captions are written in evaluation; the tokenizer says the end token."""
    words: Literal["lower", "as_is"] = "lower"
    """Before captions are compared: lower case with punctuation apart, as LaViLa's detour over
    BERT's tokenizer does, or nothing."""
    with_meteor: bool = True
    """METEOR needs Java and its jar; where they are absent it is left out, and said."""
    meteor_jar: Path | None = None
    legacy_padding: bool = False
    """LaViLa: the loss is a mean over padding too, and the padding's id, which is also "!", is
    neither trained nor scored (parity: families ``vclm_``, ``losses``)."""

    def build(self) -> Narration:
        """The task."""
        from egovl.tasks.narration import Narration

        return Narration(self)
