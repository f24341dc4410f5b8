"""Narrate: a narrator's texts for clips (LaViLa spec 2.9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from egovl.data.transforms import normalize_video
from egovl.data.types import Batch, ClipDataset
from egovl.models.generation.generate import generate
from egovl.models.narrator import Narrator
from egovl.narration.clips import Intervals, PlacedClips, require_places, uncovered
from egovl.narration.configs import NarrateConfig


class Narrate:
    """`Job`: the texts are a narrator's, the scores mean log probabilities of a token."""

    needs_pixels = True

    def __init__(self, config: NarrateConfig) -> None:
        self.config = config
        self._model: Narrator | None = None
        self._tokenizer: Any = None

    def dataset(self, given: ClipDataset, config: Any) -> PlacedClips:
        """The annotated clips, or those between them."""
        placed = require_places(given)
        if self.config.uncovered is None:
            return placed
        places = (placed.place(row) for row in range(len(placed)))
        found = uncovered(places, self.config.uncovered)
        if not found:
            raise ValueError("every stretch of these videos is annotated: nothing is uncovered")
        return Intervals(config, found)

    def start(self, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        """Take a narrator.

        Raises:
            ValueError: it is another model, or the tokenizer writes no captions.
        """
        if not isinstance(model, Narrator):
            raise ValueError(
                f"a {type(model).__name__} writes no narrations: set model.name=narrator"
            )
        if not hasattr(tokenizer, "end_id"):
            raise ValueError("narrations are decoded by GPT-2's tokenizer: set tokenizer.name=gpt2")
        self._model, self._tokenizer = model, tokenizer

    def write(
        self, batch: Batch, texts: Sequence[Sequence[str]], generator: torch.Generator
    ) -> list[dict[str, Any]]:
        """Texts and scores of each clip."""
        assert batch.video is not None
        return self.narrate(batch.video[:, 0], generator)

    def narrate(self, pixels: Tensor, generator: torch.Generator) -> list[dict[str, Any]]:
        """Texts and scores of each clip of ``[B, C, T, H, W]``, 0..255."""
        assert self._model is not None
        end = self._tokenizer.end_id
        config = replace(self.config.generation, eos_id=end, pad_id=self._tokenizer.pad_id)
        clips = self._model.encode_video(normalize_video(pixels, self.config.normalization))
        prompt = torch.full((len(clips), 1), end, device=clips.device)
        ids, scores = generate(self._model.writer(clips), prompt, config, generator)
        texts = [self._tokenizer.decode([end, *row]).strip() for row in ids.tolist()]
        count = config.num_return_sequences
        return [
            {"texts": texts[at : at + count], "scores": scores[at : at + count].tolist()}
            for at in range(0, len(texts), count)
        ]

    def finish(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All of them."""
        return records
