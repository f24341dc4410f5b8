"""Rephrase: a narration in other words, by a sequence-to-sequence model (LaViLa spec 3.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from egovl.data.types import Batch, ClipDataset
from egovl.models.generation.generate import generate
from egovl.models.seq2seq import Seq2Seq
from egovl.narration.clips import PlacedClips, require_places
from egovl.narration.configs import RephraseConfig

_TAG = re.compile(r"^#(\w+)\s+")  # who acts: "#C C opens" is said of C


class Rephrase:
    """`Job`: the texts are the narration and its paraphrases, best first."""

    needs_pixels = False

    def __init__(self, config: RephraseConfig) -> None:
        self.config = config
        self._model: Seq2Seq | None = None
        self._tokenizer: Any = None

    def dataset(self, given: ClipDataset, config: Any) -> PlacedClips:
        """The annotated clips; their videos are not opened."""
        return require_places(given)

    def start(self, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        """Take a sequence-to-sequence model.

        Raises:
            ValueError: it is another model, or the tokenizer cannot write.
        """
        if not isinstance(model, Seq2Seq):
            raise ValueError(f"a {type(model).__name__} does not rephrase: set model.name=seq2seq")
        if not hasattr(tokenizer, "decode"):
            raise ValueError("rephrasing needs the model's own tokenizer: set tokenizer.name=hf")
        self._model, self._tokenizer = model, tokenizer

    def write(
        self, batch: Batch, texts: Sequence[Sequence[str]], generator: torch.Generator
    ) -> list[dict[str, Any]]:
        """The narration, if it stays, with score 0, then paraphrases with theirs."""
        assert self._model is not None
        config, device = self.config, generator.device
        originals = [of_clip[0] for of_clip in texts]
        asked = [config.prefix + _TAG.sub("", text) for text in originals]
        tokens, mask = self._tokenizer(asked)
        sizes = self._model.config
        writing = replace(config.generation, eos_id=sizes.end_id, pad_id=sizes.pad_id)
        writer = self._model.writer(tokens.to(device), mask.to(device))
        prompt = torch.full((len(asked), 1), sizes.start_id, device=device)
        ids, scores = generate(writer, prompt, writing, generator)
        count = writing.num_return_sequences
        written = [self._tokenizer.decode(row) for row in ids.tolist()]
        return [
            self._choose(
                original,
                written[row * count : (row + 1) * count],
                scores[row * count : (row + 1) * count].tolist(),
            )
            for row, original in enumerate(originals)
        ]

    def _choose(
        self, original: str, written: Sequence[str], scores: Sequence[float]
    ) -> dict[str, Any]:
        first = self._cleaned(original)
        texts, kept = ([first], [0.0]) if self.config.include_original else ([], [])
        seen = {_compared(first), ""}
        most = len(texts) + self.config.keep
        for text, score in zip(map(self._cleaned, written), scores, strict=True):
            if _compared(text) not in seen and len(texts) < most:
                seen.add(_compared(text))
                texts.append(text)
                kept.append(score)
        return {"texts": texts, "scores": kept}

    def _cleaned(self, text: str) -> str:
        if self.config.strip_punctuation:
            # the mark of who acts stays
            text = re.sub(r"[^\w\s#']", " ", text)
        return " ".join(text.split())

    def finish(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All of them."""
        return records


def _compared(text: str) -> str:
    """Case, punctuation and the mark of who acts make no difference."""
    return " ".join(re.findall(r"\w+", _TAG.sub("", text).lower()))
