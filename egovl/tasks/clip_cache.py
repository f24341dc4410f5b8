"""Embeddings of clips that a frozen video tower need see only once.

They are made from the fixed frames and crops of evaluation, kept in one file of the run's folder,
mapped by every process, and found again by a resumed run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.loader import EvalLoader
from egovl.data.types import ClipDataset, DrawsSamples, RandomSource, Sample
from egovl.losses.pairs import SideTable
from egovl.tasks.views import encode_views

logger = logging.getLogger(__name__)


@runtime_checkable
class TakesClips(Protocol):
    """A task that may be given the embeddings of a batch's clips in place of their pixels."""

    config: Any

    def use_clips(self, table: SideTable) -> None:
        """Look them up here by sample."""
        ...


class StoredClips:
    """``[N, K, P]`` embeddings in a mapped file (`SideTable`)."""

    def __init__(self, file: Path) -> None:
        self._values = np.load(file, mmap_mode="r")

    def rows(self, index: Tensor) -> Tensor:
        """``[B, K, P]`` of some samples, on the device of ``index``."""
        found = np.ascontiguousarray(self._values[index.cpu().numpy()])
        return torch.from_numpy(found).to(index.device)


class WithoutClips:
    """A dataset without references to clips, so that none is read."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    @property
    def label_sizes(self) -> Mapping[str, int]:
        """Those of the dataset."""
        return self._dataset.label_sizes

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        return _bare(self._dataset[index])

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        """The dataset's draw, without clips."""
        if isinstance(self._dataset, DrawsSamples):
            return _bare(self._dataset.draw_sample(index, random))
        return self[index]

    def chunk_of(self, index: int) -> int:
        """A file of its own: there is nothing to keep open."""
        return index


def _bare(sample: Sample) -> Sample:
    return Sample(sample.index, (), sample.texts, sample.labels, sample.children)


@torch.no_grad()
def clip_embeddings(
    model: nn.Module, share: EvalLoader, file: Path, normalization: str
) -> StoredClips:
    """Embeddings of all samples' clips, made now by all ranks if the file is not there.

    Args:
        model: Has ``encode_video`` and a video tower that does not learn, on its device.
        share: This rank's samples.
        file: Where they are kept.
        normalization: Of the pixels.

    Raises:
        ValueError: The tower learns.
    """
    tower = cast(nn.Module, model.video)
    if any(param.requires_grad for param in tower.parameters()):
        raise ValueError(
            "cache_clips: the video tower learns, so embeddings would grow old; set "
            "model.frozen=video"
        )
    if not dist.broadcast_object(file.exists()):
        rows = _encode(model, share, normalization)
        if dist.rank() == 0:
            beside = file.with_name(f".{file.name}")
            with beside.open("wb") as sink:
                np.save(sink, rows)
            beside.replace(file)
            logger.info("%s: clips of %d videos, encoded once", file, len(rows))
        dist.barrier()
    return StoredClips(file)


def _encode(model: nn.Module, share: EvalLoader, normalization: str) -> np.ndarray:
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    index, parts = [torch.empty(0, dtype=torch.int64, device=device)], []
    for batch in share:
        batch = batch.to(device)
        assert batch.video is not None
        encode = cast(Any, model).encode_video
        parts.append(encode_views(encode, batch.video, normalization))
        index.append(batch.index)
    model.train(was_training)
    local = {"clips": torch.cat(parts)} if parts else {}
    found, gathered = dist.gather_rows(torch.cat(index), local)
    if len(found) != int(found[-1]) + 1:
        raise ValueError(
            f"cache_clips: {int(found[-1]) + 1 - len(found)} videos could not be read; drop them"
        )
    return gathered["clips"].cpu().numpy()
