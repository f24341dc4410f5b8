"""Features of many videos into a store: a recipe's ``features:`` section, video by video.

Windows of all videos of a share go through one loader in a row; a video is written as soon as its
last window is there, so a stop loses one video at most.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from egovl.atomic import replacing
from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.data.loader import LoaderError, build_eval_loader
from egovl.data.types import Batch, ClipDataset
from egovl.recipe import ExtractConfig, Recipe, input_hashes
from egovl.run import initialize, newest_checkpoint
from egovl.shards import share_of
from egovl.tasks.dense_features import zero_tail
from egovl.tasks.features import Features
from egovl.work import Done, rank_of, report_progress

logger = logging.getLogger(__name__)


class Windows(ClipDataset, Protocol):
    """Windows of videos, or of clips of them; labels ``video``, its number, and ``window``."""

    @property
    def names(self) -> Sequence[str]:
        """What each video's features are stored under, by its number."""
        ...

    def num_windows(self, number: int) -> int:
        """Features of a video."""
        ...

    def only(self, names: Collection[str]) -> Windows:
        """The windows of some videos."""
        ...


def extract(recipe: Recipe, should_stop: Callable[[], bool] = lambda: False) -> Done:
    """Write the features of this process's share of the videos; those that are there stay.

    Raises:
        ValueError: the recipe or the store is wrong.
        LoaderError: nothing could be read.
    """
    config = cast(ExtractConfig, recipe.features)
    task = cast(Features, config.task.build())
    rank, world_size = rank_of()
    device = own_device()
    model: nn.Module = recipe.model.build().to(device)
    initialize(model, recipe)
    hashes = input_hashes(recipe, newest_checkpoint)
    out = cast(Path, config.out)
    writer = FeatureWriter(out, _facts(config, task, model, hashes.get("init.file")))
    videos = cast(Windows, config.dataset.build())
    share = share_of(
        sorted(videos.names), config.shard * world_size + rank, config.shards * world_size
    )
    todo = [name for name in share if name not in writer]
    logger.info("%d of %d videos to extract into %s", len(todo), len(share), out)
    collected = _Collected(videos.only(todo), writer, task.config.legacy_zero_tail)
    if todo:
        _run(config, task, model, device, collected, should_stop)
    return _conclude(config, collected, len(share), hashes)


@dataclass
class _Collected:
    """Rows of videos that are not whole yet."""

    videos: Windows
    writer: FeatureWriter
    legacy_zero_tail: bool
    rows: dict[int, dict[int, np.ndarray]] = field(default_factory=dict[int, dict[int, np.ndarray]])
    stopped: bool = False

    def add(self, batch: Batch, features: np.ndarray) -> None:
        """Take the features of a batch, and write the videos that they complete."""
        numbers, windows = (batch.labels[name].tolist() for name in ("video", "window"))
        for number, window, row in zip(numbers, windows, features, strict=True):
            rows = self.rows.setdefault(number, {})
            rows[window] = row
            if len(rows) == self.videos.num_windows(number):
                matrix = np.stack([rows[k] for k in range(len(rows))])
                if self.legacy_zero_tail:
                    zero_tail(matrix)
                self.writer.write(self.videos.names[int(number)], matrix)
                del self.rows[number]

    @property
    def missing(self) -> list[str]:
        """Videos that were not written."""
        return [name for name in self.videos.names if name not in self.writer]


def _run(
    config: ExtractConfig,
    task: Features,
    model: nn.Module,
    device: torch.device,
    collected: _Collected,
    should_stop: Callable[[], bool],
) -> None:
    loader = build_eval_loader(collected.videos, config.loader, None, rank=0, world_size=1)
    model.eval()
    for number, batch in enumerate(loader):
        report_progress(number)
        if should_stop():
            collected.stopped = True
            return
        with torch.no_grad():
            features = task.eval_step(model, batch.to(device))["features"]
        collected.add(batch, features.float().cpu().numpy())
    for path, reason in loader.counters.bad_files.items():
        logger.warning("%s cannot be read: %s", path, reason)


def own_device() -> torch.device:
    """The GPU that is this process's, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _facts(
    config: ExtractConfig, task: Features, model: nn.Module, sha256: str | None
) -> FeatureFacts:
    dataset = config.dataset
    return FeatureFacts(
        fps=float(dataset.frames_per_sec),
        window_frames=dataset.window_frames,
        stride_frames=dataset.stride_frames,
        width=task.width(model),
        layer=task.layer(model),
        projection=task.config.projection,
        weight_sha256=sha256,
    )


def _conclude(
    config: ExtractConfig, collected: _Collected, share: int, hashes: dict[str, str]
) -> Done:
    missing = collected.missing
    if collected.stopped:
        return Done(is_whole=False)
    rank, world_size = rank_of()
    number, count = config.shard * world_size + rank, config.shards * world_size
    with replacing(cast(Path, config.out) / f".failed-{number:05d}-of-{count:05d}.json") as file:
        json.dump(missing, file, indent=1)
    if missing:
        logger.warning("%d videos have no features: %s", len(missing), ", ".join(missing[:8]))
    if missing and len(missing) == share:
        raise LoaderError(f"not one of {share} videos could be read")
    metrics = {"videos": float(share - len(missing)), "failed": float(len(missing))}
    return Done(is_whole=True, metrics=metrics, inputs=hashes)
