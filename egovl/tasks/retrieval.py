"""Retrieval with a dual encoder: EK-100's many-to-many search, and plain pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from egovl.data.types import Batch
from egovl.losses.similarity import cosine_matrix
from egovl.metrics.retrieval import class_relevancy, dual_softmax, mir_metrics, recall_metrics
from egovl.models.dual_encoder import DualEncoder
from egovl.tasks.binding import take
from egovl.tasks.configs import RetrievalConfig
from egovl.tasks.views import encode_views


class Retrieval:
    """``EvalTask``: every clip against every text; the views of a clip are averaged."""

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config
        self._relevancy: np.ndarray | None = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the released relevancy of the dataset, where it has one."""
        if self.config.relevance == "graded":
            take(dataset, "sentence_rows", "retrieval")
            self._relevancy = dataset.relevancy

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Embeddings of both sides; video [B, K, C, T, H, W], one text a sample."""
        encoder = cast(DualEncoder, model)
        assert batch.video is not None and batch.tokens is not None
        views_BKP = encode_views(encoder.encode_video, batch.video, self.config.normalization)
        rows = {
            "video": views_BKP.mean(dim=1),
            "text": encoder.encode_text(batch.tokens, batch.token_mask).float(),
        }
        if self.config.relevance == "graded":
            rows |= {name: batch.labels[name] for name in ("row", "sentence", "verb", "noun")}
        return rows

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: mAP and nDCG of both directions, or recalls and ranks of pairs."""
        if self.config.relevance == "pairs":
            return recall_metrics(cosine_matrix(rows["text"], rows["video"]))
        columns = sentence_columns(rows["sentence"])
        relevancy = self._relevancy_of(rows, columns)
        texts = rows["text"] if self.config.similarity == "dual_softmax" else rows["text"][columns]
        if self.config.similarity == "dual_softmax":
            scores_VT = dual_softmax(texts @ rows["video"].T)[columns].T
        else:
            scores_VT = cosine_matrix(rows["video"], texts)
        return mir_metrics(
            scores_VT,
            relevancy,
            on_empty=self.config.on_empty,
            legacy_ties=self.config.similarity == "dual_softmax",
        )

    def _relevancy_of(self, rows: Mapping[str, Tensor], columns: Tensor) -> np.ndarray:
        if self._relevancy is None:
            return class_relevancy(rows["verb"], rows["noun"], columns)
        videos, sentences = rows["row"].cpu().numpy(), rows["sentence"][columns].cpu().numpy()
        return np.asarray(self._relevancy)[videos][:, sentences]


def sentence_columns(sentence: Tensor) -> Tensor:
    """Places of the rows that stand for a sentence, in the order of the sentences.

    Raises:
        ValueError: no row does.
    """
    places = torch.nonzero(sentence >= 0).flatten()
    if not len(places):
        raise ValueError("no sample stands for a sentence of the list that is searched")
    return places[sentence[places].argsort()]
