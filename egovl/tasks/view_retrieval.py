"""Cross-view retrieval: contrast of clips of both views, and search within six benchmarks.

Letters: B samples, K clips of a sample, T features of a clip, D width, P embedding, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.pairs import Pairs
from egovl.losses.similarity import cosine_matrix
from egovl.metrics.choice import choice_accuracy
from egovl.metrics.retrieval import class_relevancy, mir_metrics
from egovl.metrics.view_retrieval import pair_recalls
from egovl.models.retriever import ViewRetriever
from egovl.tasks.retrieval import sentence_columns
from egovl.tasks.view_configs import ViewRetrievalConfig


class ViewRetrieval:
    """``TrainTask`` and ``EvalTask`` of a retriever over second-features."""

    def __init__(self, config: ViewRetrievalConfig) -> None:
        self.config = config
        self._loss = config.loss.build()
        self._kind = "pairs"
        self._benchmark = ""
        self._query_is_clip = False
        self._relevancy: Any = None

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take what kind of question an evaluation set asks."""
        self._kind = getattr(dataset, "kind", self._kind)
        self._benchmark = getattr(dataset, "benchmark", "")
        self._query_is_clip = getattr(dataset, "query_is_clip", False)
        self._relevancy = getattr(dataset, "relevancy", None)

    def train_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Loss of the global batch; video [B, 1 + P, T, D], tokens [B, 1 + P, L]."""
        assert batch.video is not None and batch.tokens is not None
        output = model(batch.video.flatten(0, 1), batch.tokens.flatten(0, 1))
        pair = dist.gather_pair(output.video, output.text, self.config.gather)
        sides = {
            name: dist.gather_no_grad(batch.labels[name].flatten(0, 1)) for name in self._loss.sides
        }
        result = self._loss(Pairs(**pair._asdict(), scale=output.logit_scale, sides=sides))
        return StepOutput(result.loss, result.report)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Clamp the log of the learned scale."""
        scale = cast(ViewRetriever, model).logit_scale
        scale.clamp_(0.0, math.log(self.config.max_logit_scale))

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Embeddings of both sides, or scores of the choices; video [B, K, T, D]."""
        encoder = cast(ViewRetriever, model)
        assert batch.video is not None
        unit = self._kind != "choice" or self._query_is_clip
        normalize = unit or not self.config.legacy_unnormalised_mcq
        clips_BKP = encoder.encode_video(batch.video.flatten(0, 1), normalize=normalize)
        clips_BKP = clips_BKP.float().unflatten(0, batch.video.shape[:2])
        if self._query_is_clip:
            query_BP, clips_BKP = clips_BKP[:, 0], clips_BKP[:, 1:]
        else:
            assert batch.tokens is not None
            query_BP = encoder.encode_text(batch.tokens, normalize=True).float()
        if self._kind == "choice":
            scores_BK = torch.einsum("bkp,bp->bk", clips_BKP, query_BP)
            return {"scores": scores_BK, **batch.labels}
        return {"query": query_BP, "clip": clips_BKP[:, 0], **batch.labels}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Percent: recalls of pairs, accuracy of choices, or graded mAP and nDCG."""
        if self._kind == "choice":
            return self._choice_score(rows)
        if self._kind == "pairs":
            names = ("e2x", "x2e") if self._query_is_clip else ("t2v", "v2t")
            similarity = cosine_matrix(rows["query"], rows["clip"])
            return pair_recalls(similarity, names, legacy_ties=self.config.legacy_ties)
        columns = sentence_columns(rows["sentence"])
        if self._relevancy is None:
            relevancy = class_relevancy(rows["verb"], rows["noun"], columns)
        else:
            videos, sentences = rows["row"].cpu().numpy(), rows["sentence"][columns].cpu().numpy()
            relevancy = self._relevancy[videos][:, sentences]
        scores_VT = cosine_matrix(rows["clip"], rows["query"][columns])
        return mir_metrics(scores_VT, relevancy)

    def _choice_score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        found = choice_accuracy(rows["scores"], rows["answer"], rows["type"])
        if self._benchmark == "egolearn":  # its types are directions between the views
            names = {"inter_video": "ego_to_exo", "intra_video": "exo_to_ego"}
            return {names[name]: value for name, value in found.items()}
        return found
