"""What a training reads: one stream of batches, or two by turns, and how long an epoch of it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from egovl import dist
from egovl.data.alternation import AlternatingBatches, Turns
from egovl.data.configs import LoaderConfig
from egovl.data.loader import TrainLoader, build_train_loader
from egovl.recipe import Recipe, StageConfig
from egovl.tasks.clip_cache import Encode, TakesClips, WithoutClips, clip_embeddings

logger = logging.getLogger(__name__)


class TrainStreams:
    """The training sets of a recipe and their batches on this rank."""

    def __init__(self, recipe: Recipe, stage: StageConfig, tokenizer: Any) -> None:
        self._recipe = recipe
        self._stage = stage
        self._tokenizer = tokenizer
        self.dataset = stage.dataset.build()
        self._parents = None if stage.parents is None else stage.parents.dataset.build()

    def __str__(self) -> str:
        text = f"{len(self.dataset)} samples, {self._stage.loader.batch_size} a step"
        parents = self._stage.parents
        if parents is None or self._parents is None:
            return text
        return (
            f"{text}; after every {parents.children_per_parent} steps one of "
            f"{parents.loader.batch_size} of {len(self._parents)} long videos"
        )

    @property
    def leaves_unused(self) -> bool:
        """Whether some steps leave trainable parameters without a gradient."""
        return self._stage.parents is not None

    def steps_per_epoch(self) -> int:
        """Steps of a pass over the samples, the other stream's steps in between included.

        Raises:
            ValueError: Fewer samples than one batch.
        """
        first = _num_batches(len(self.dataset), self._stage.loader, "train")
        parents = self._stage.parents
        if parents is None or self._parents is None:
            return first
        second = _num_batches(len(self._parents), parents.loader, "train.parents")
        return Turns(parents.children_per_parent).steps_of(first, second)

    def total_steps(self) -> int:
        """Steps of the whole run."""
        config = self._recipe.trainer
        if config.steps is not None:
            self.steps_per_epoch()  # too few samples are refused here too
            return config.steps
        return max(1, round(float(config.epochs or 1) * self.steps_per_epoch()))

    def batches(self, start_sample: int) -> Iterator[Any]:
        """Batches of this rank after a number of samples, counted by steps of the first stream."""
        stage, parents = self._stage, self._stage.parents
        if parents is None:
            return self._loader(self.dataset, stage.loader, start_sample)
        return AlternatingBatches(
            Turns(parents.children_per_parent),
            start_sample // stage.loader.batch_size,
            lambda n: self._loader(self.dataset, stage.loader, n * stage.loader.batch_size),
            lambda n: self._loader(self._parents, parents.loader, n * parents.loader.batch_size),
        )

    def cache_clips(self, model: nn.Module, task: Any, folder: Path, encode: Encode) -> None:
        """Replace pixels by stored embeddings of clips where the recipe says so.

        Args:
            model: On its device.
            task: What takes the embeddings.
            folder: Of the run, where they are kept.
            encode: Runs an encoding that is not there yet.

        Raises:
            ValueError: The model's video tower learns, or the task takes no embeddings.
        """
        stage, parents = self._stage, self._stage.parents
        if stage.cache_clips:
            file = folder / "clips.npy"
            self.dataset = _cached(self.dataset, stage.loader, model, task, file, encode)
        if parents is not None and parents.cache_clips:
            file = folder / "parent_clips.npy"
            self._parents = _cached(self._parents, parents.loader, model, task, file, encode)

    def _loader(self, dataset: Any, config: LoaderConfig, start_sample: int) -> TrainLoader:
        return build_train_loader(
            dataset,
            config,
            self._tokenizer,
            seed=self._recipe.seed,
            rank=dist.rank(),
            world_size=dist.world_size(),
            start_sample=start_sample,
        )


def _cached(
    dataset: Any, loader: LoaderConfig, model: nn.Module, task: Any, file: Path, encode: Encode
) -> WithoutClips:
    if not isinstance(task, TakesClips):
        raise ValueError(f"cache_clips: {type(task).__name__} takes no stored embeddings")
    table = clip_embeddings(model, dataset, loader, file, task.config.normalization, encode)
    task.use_clips(table)
    return WithoutClips(dataset)


def _num_batches(num_samples: int, loader: LoaderConfig, stage: str) -> int:
    count = num_samples // loader.batch_size
    if count == 0:
        raise ValueError(
            f"{num_samples} samples do not fill one batch of {loader.batch_size}: "
            f"lower {stage}.loader.batch_size"
        )
    return count
