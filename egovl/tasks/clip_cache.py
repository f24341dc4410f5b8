"""Embeddings of clips that a frozen video tower need see only once.

They are made from the fixed frames and crops of evaluation, kept in one file of the run's folder,
mapped by every process, and found again by a resumed run. A run that is stopped while it makes them
goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from egovl import dist
from egovl.data.configs import LoaderConfig
from egovl.data.loader import EvalLoader, build_eval_loader
from egovl.data.row_parts import RowParts
from egovl.data.subset import Subset
from egovl.data.types import Batch, ClipDataset, DrawsSamples, RandomSource, Sample
from egovl.losses.pairs import SideTable
from egovl.tasks.views import encode_views

logger = logging.getLogger(__name__)

_ROWS_PER_PART = 512  # of a rank: a kill loses the clips of so many videos


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


class ClipEncoding:
    """``EvalTask`` that scores nothing: it keeps the embeddings of its samples' clips."""

    def __init__(self, parts: RowParts, normalization: str) -> None:
        self.written: list[str] = []
        self._parts = parts
        self._normalization = normalization
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def eval_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Encode; there are no rows to score."""
        assert batch.video is not None
        encode = cast(Any, model).encode_video
        self._waiting.append((batch.index, encode_views(encode, batch.video, self._normalization)))
        if sum(len(index) for index, _ in self._waiting) >= _ROWS_PER_PART:
            self.flush()
        return {}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Nothing."""
        return {}

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            index, clips = (
                torch.cat(part).cpu().numpy() for part in zip(*self._waiting, strict=True)
            )
            self.written.append(self._parts.write(index, clips))
            self._waiting = []


Encode = Callable[[ClipEncoding, EvalLoader], object]
"""Runs the encoding over this rank's share; may raise to stop."""


def clip_embeddings(
    model: nn.Module,
    dataset: ClipDataset,
    loader: LoaderConfig,
    file: Path,
    normalization: str,
    encode: Encode,
) -> StoredClips:
    """Embeddings of all samples' clips, made now by all ranks as far as they are not there.

    Args:
        model: Has ``encode_video`` and a video tower that does not learn, on its device.
        dataset: The samples.
        loader: How they are read.
        file: Where they are kept.
        normalization: Of the pixels.
        encode: Runs the encoding over this rank's share.

    Raises:
        ValueError: The tower learns, or some clips cannot be read.
    """
    tower = cast(nn.Module, model.video)
    if any(param.requires_grad for param in tower.parameters()):
        raise ValueError(
            "cache_clips: the video tower learns, so embeddings would grow old; set "
            "model.frozen=video"
        )
    if not dist.broadcast_object(file.exists()):
        parts = RowParts(file, len(dataset))
        _encode(ClipEncoding(parts, normalization), parts, dataset, loader, encode)
        if dist.rank() == 0:
            logger.info("%s: clips of %d videos, encoded once", file, len(dataset))
    return StoredClips(file)


def _encode(
    encoding: ClipEncoding,
    parts: RowParts,
    dataset: ClipDataset,
    loader: LoaderConfig,
    encode: Encode,
) -> None:
    """Encode what no part holds, and join the parts."""
    rank, world_size, count = dist.rank(), dist.world_size(), len(dataset)
    known = [parts.first_missing(), parts.names()] if rank == 0 else None
    first, names = dist.broadcast_object(known)
    if first < count:
        # whole batches of all ranks: every batch is the one that an unbroken run would encode
        block = loader.eval_batch_size * world_size
        rest = Subset(dataset, range(first // block * block, count))
        share = build_eval_loader(rest, loader, None, rank=rank, world_size=world_size)
        try:
            encode(encoding, share)
        finally:
            encoding.flush()
    names += [name for written in dist.gather_json(encoding.written) for name in written]
    if missing := dist.broadcast_object(parts.join(names) if rank == 0 else None):
        raise ValueError(f"cache_clips: {missing} videos could not be read; drop them")
