"""Makes a batch of samples that a dataset reads itself; runs in the loading processes."""

from __future__ import annotations

from typing import Any

import torch

from egovl.data.batch_reader import BatchPlan, LoadedBatch
from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError
from egovl.data.randomness import REPLACEMENT, VISIT, SampleRandom
from egovl.data.types import ReadsItems

_MAX_REPLACEMENTS = 20


class ItemReader(torch.utils.data.Dataset):
    """Maps a `BatchPlan` to a `LoadedBatch`; an unreadable training sample is replaced by a draw.

    The draw depends on (seed, epoch, index, try) alone.
    """

    def __init__(self, dataset: Any, config: LoaderConfig, tokenizer: Any, seed: int) -> None:
        self._dataset = dataset
        self._config = config
        self._tokenizer = tokenizer
        self._seed = seed

    def __getitem__(self, plan: BatchPlan) -> LoadedBatch:
        items: list[Any] = []
        bad: list[tuple[int, DecodeError]] = []
        for index in plan.indices:
            failures = len(bad)
            item = self._read(index, plan.epoch, bad)
            if item is not None:
                items.append(item)
            elif self._config.on_error == "raise" and len(bad) > failures:
                break
        dataset: ReadsItems = self._dataset
        batch = dataset.join_items(items, self._tokenizer) if items else None
        return LoadedBatch(batch, tuple(bad))

    def _read(self, index: int, epoch: int | None, bad: list[tuple[int, DecodeError]]) -> Any:
        """A sample or its replacement; None if there is neither."""
        place = index
        for attempt in range(_MAX_REPLACEMENTS):
            random = None if epoch is None else SampleRandom(self._seed, epoch, place, VISIT)
            try:
                return self._dataset.read_item(place, self._config, random)
            except DecodeError as error:
                bad.append((place, error))
            if epoch is None or self._config.on_error == "raise":
                return None
            draw = SampleRandom(self._seed, epoch, index, REPLACEMENT + attempt)
            place = draw.integer(0, len(self._dataset) - 1)
        raise bad[-1][1]
