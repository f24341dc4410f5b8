"""Filter: keep the texts that a dual encoder finds in their clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from egovl.data.transforms import normalize_video
from egovl.data.types import Batch, ClipDataset
from egovl.models.dual_encoder import DualEncoder
from egovl.narration.clips import PlacedClips, require_places
from egovl.narration.configs import FilterConfig


class Filter:
    """`Job`: the texts are those given, the scores their cosines with the clip."""

    needs_pixels = True

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self._model: DualEncoder | None = None
        self._tokenizer: Any = None

    def dataset(self, given: ClipDataset, config: Any) -> PlacedClips:
        """The annotated clips."""
        return require_places(given)

    def start(self, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        """Take a dual encoder.

        Raises:
            ValueError: it is another model.
        """
        if not isinstance(model, DualEncoder):
            raise ValueError(f"a {type(model).__name__} compares no texts: model.name=dual_encoder")
        self._model, self._tokenizer = model, tokenizer

    def write(
        self, batch: Batch, texts: Sequence[Sequence[str]], generator: torch.Generator
    ) -> list[dict[str, Any]]:
        """Every text with its cosine."""
        assert self._model is not None and batch.video is not None
        device = batch.video.device
        pixels = normalize_video(batch.video[:, 0], self.config.normalization)
        clip_BP = F.normalize(self._model.encode_video(pixels), dim=-1)
        tokens, mask = self._tokenizer([text for of_clip in texts for text in of_clip])
        text_NP = self._model.encode_text(tokens.to(device), mask.to(device))
        counts = torch.tensor([len(of_clip) for of_clip in texts], device=device)
        own_NP = clip_BP.repeat_interleave(counts, dim=0)
        cosines = (own_NP * F.normalize(text_NP, dim=-1)).sum(dim=-1).split(counts.tolist())
        return [
            {"texts": list(of_clip), "scores": scores.tolist()}
            for of_clip, scores in zip(texts, cosines, strict=True)
        ]

    def finish(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What meets every condition, the best of a clip first."""
        return keep_best(records, self.config)


def keep_best(records: Sequence[dict[str, Any]], config: FilterConfig) -> list[dict[str, Any]]:
    """Records with the texts that meet every condition, sorted by score; none where none does."""
    least = -np.inf if config.min_score is None else config.min_score
    scores = np.array([score for record in records for score in record["scores"]])
    if config.best_fraction is not None and len(scores):
        number = max(round(config.best_fraction * len(scores)), 1)
        least = max(least, np.sort(scores)[-number])
    kept: list[dict[str, Any]] = []
    for record in records:
        pairs = zip(record["scores"], record["texts"], strict=True)
        chosen = sorted((p for p in pairs if p[0] >= least), key=lambda pair: -pair[0])
        chosen = chosen[: config.best_of_clip]
        kept.append({**record, "texts": [t for _, t in chosen], "scores": [s for s, _ in chosen]})
    return kept
