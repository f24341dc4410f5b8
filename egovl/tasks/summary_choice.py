"""SummaryMCQ and ShuffleMCQ: which video does a summary tell of, and in which order (HierVL 6.1).

Every video is encoded once, whatever number of questions it is a choice of; ShuffleMCQ then asks
the aggregator alone. Queries are embedded before the first video.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from egovl.data.datasets.summary_mcq import SUMMARY, Questions
from egovl.data.types import Batch
from egovl.metrics.choice import choice_accuracy
from egovl.models.hierarchical_encoder import HierarchicalEncoder
from egovl.tasks.binding import take
from egovl.tasks.hierarchical import clip_mask
from egovl.tasks.hierarchy_configs import SummaryChoiceConfig
from egovl.tasks.views import encode_views

_TEXTS_PER_BATCH = 256


class SummaryChoice:
    """``EvalTask``: percent answered rightly, ``summary_mcq`` and ``shuffle_mcq``."""

    def __init__(self, config: SummaryChoiceConfig) -> None:
        self.config = config
        self._questions: Questions | None = None
        self._tokenizer: Any = None
        self._query_QP = torch.empty(0)

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take the questions."""
        self._questions = take(dataset, "questions", "summary_choice")
        self._tokenizer = tokenizer

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Embed the queries with the weights as they are now.

        Raises:
            ValueError: the model has no aggregator.
        """
        if not isinstance(model, HierarchicalEncoder):
            raise ValueError(
                f"task summary_choice needs model.name=hierarchical, not {type(model).__name__}"
            )
        assert self._questions is not None
        parts, queries = [], self._questions.queries
        for start in range(0, len(queries), _TEXTS_PER_BATCH):
            tokens, mask = self._tokenizer(queries[start : start + _TEXTS_PER_BATCH])
            parts.append(model.encode_text(tokens.to(device), mask.to(device)).float())
        self._query_QP = functional.normalize(torch.cat(parts), dim=-1)

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Embeddings of videos, in order [B, P] and shuffled [B, S, P]."""
        encoder = cast(HierarchicalEncoder, model)
        clips_BKP = self._clips(encoder, batch)
        mask = clip_mask(batch, clips_BKP.shape[1])
        rows = {"video": encoder.aggregate(clips_BKP, mask).float()}
        if self.config.num_shuffled:
            orders_BSK = self._orders(batch)
            picked = clips_BKP[torch.arange(len(orders_BSK))[:, None, None], orders_BSK]
            repeated = None if mask is None else mask.repeat_interleave(orders_BSK.shape[1], dim=0)
            shuffled = encoder.aggregate(picked.flatten(0, 1), repeated).float()
            rows["shuffled"] = shuffled.unflatten(0, orders_BSK.shape[:2])
        return rows

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy in percent, as far as asked."""
        assert self._questions is not None
        questions, query_QP = self._questions, self._query_QP.to(rows["video"].device)
        choices, answers = torch.from_numpy(questions.choices), torch.from_numpy(questions.answers)
        choices, answers = choices.to(query_QP.device), answers.to(query_QP.device)
        video_VP = functional.normalize(rows["video"], dim=-1)
        found = _accuracy(_cosines(query_QP, video_VP[choices]), answers, "summary_mcq")
        if "shuffled" in rows:
            right = choices[torch.arange(len(choices)), answers]
            shuffled = functional.normalize(rows["shuffled"], dim=-1)[right]
            # the right order stands last: a model that sees none scores 0, not 100
            scores = _cosines(query_QP, torch.cat([shuffled, video_VP[right][:, None]], dim=1))
            last = torch.full_like(answers, scores.shape[1] - 1)
            found |= _accuracy(scores, last, "shuffle_mcq")
        return found

    def _clips(self, encoder: HierarchicalEncoder, batch: Batch) -> Tensor:
        """Embeddings [B, K, P], few clips at a time: a batch of long videos would not fit."""
        assert batch.video is not None
        flat = batch.video.flatten(0, 1).unsqueeze(1)
        size = self.config.clips_per_forward
        parts = [
            encode_views(encoder.encode_video, flat[i : i + size], self.config.normalization)
            for i in range(0, len(flat), size)
        ]
        return torch.cat(parts).squeeze(1).unflatten(0, batch.video.shape[:2])

    def _orders(self, batch: Batch) -> Tensor:
        """``[B, S, K]`` orders of the clips that are there, none of them the true one."""
        assert batch.video is not None
        places = batch.video.shape[1]
        counts = batch.labels.get("num_clips", torch.full((len(batch.index),), places))
        orders = []
        for index, count in zip(batch.index.tolist(), counts.tolist(), strict=True):
            numbers = random.Random(f"{self.config.seed} {index}")
            rest = list(range(count, places))
            orders.append(
                [_shuffled(count, numbers) + rest for _ in range(self.config.num_shuffled)]
            )
        return torch.tensor(orders, device=batch.video.device)


def _shuffled(count: int, numbers: random.Random) -> list[int]:
    order = list(range(count))
    while count > 1 and order == sorted(order):
        numbers.shuffle(order)
    return order


def _cosines(query_QP: Tensor, choice_QCP: Tensor) -> Tensor:
    return torch.einsum("qcp,qp->qc", choice_QCP, query_QP)


def _accuracy(scores_QC: Tensor, answers_Q: Tensor, name: str) -> dict[str, float]:
    kinds = torch.full_like(answers_Q, SUMMARY)
    return choice_accuracy(scores_QC, answers_Q, kinds, names=(name,))
