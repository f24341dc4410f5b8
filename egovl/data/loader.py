"""Batches for training (endless, resumable from a counter) and evaluation (each sample once).

1. `order.global_batches` gives the indices of each global batch, the same on every rank.
2. A rank takes its slice and sends it as a `BatchPlan` to its loading processes.
3. A process reads, crops and tokenizes it (`BatchReader`), with files kept open.
4. Here failures are counted, and a process that died or hangs becomes a clear error.

Which process makes a batch, and how many there are, changes nothing in it.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from egovl.data.batch_reader import BatchPlan, BatchReader, LoadedBatch
from egovl.data.collate import Tokenizer
from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError
from egovl.data.item_reader import ItemReader
from egovl.data.order import global_batches, sample_order
from egovl.data.types import Batch, ClipDataset, OrdersEvaluation, ReadsBatches, ReadsItems

log = logging.getLogger(__name__)


class LoaderError(RuntimeError):
    """Loading cannot go on: a process died or hangs, or too much is unreadable."""


@dataclass
class Counters:
    """What a loader met so far on this rank."""

    samples: int = 0
    bad_samples: set[int] = field(default_factory=set)
    bad_files: dict[Path, str] = field(default_factory=dict)


class TrainLoader(Iterator[Batch]):
    """Endless batches of a rank, made by `build_train_loader`."""

    def __init__(self, loader: DataLoader, config: LoaderConfig, samples_of_rank: float) -> None:
        self._watch = _Watch(config, samples_of_rank)
        self._batches = self._watch.batches(loader)

    @property
    def counters(self) -> Counters:
        """Samples given out, unreadable samples and files."""
        return self._watch.counters

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Stop the loading processes."""
        self._batches.close()


class EvalLoader:
    """Each sample of this rank once per iteration, made by `build_eval_loader`."""

    def __init__(self, loader: DataLoader, config: LoaderConfig, num_samples: int) -> None:
        self._loader = loader
        self._config = config
        self._num_samples = num_samples
        self.counters = Counters()

    def __len__(self) -> int:
        return math.ceil(self._num_samples / self._config.eval_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        watch = _Watch(self._config, self._num_samples)
        self.counters = watch.counters
        return watch.batches(self._loader)


def build_train_loader(
    dataset: ClipDataset,
    config: LoaderConfig,
    tokenizer: Tokenizer | None,
    *,
    seed: int,
    rank: int,
    world_size: int,
    start_sample: int,
) -> TrainLoader:
    """Endless training batches of ``batch_size / world_size`` rows for this rank.

    Args:
        dataset: Annotations.
        config: ``batch_size`` counts the samples of all ranks.
        tokenizer: None leaves the texts out.
        seed: With the epoch and a sample's index it determines everything random about the sample.
        rank: This process.
        world_size: All processes; another number sees the same global batches.
        start_sample: Samples consumed by all ranks before, a multiple of ``batch_size``.

    Raises:
        ValueError: Sizes that do not divide, or fewer samples than one batch.
    """
    per_rank, rest = divmod(config.batch_size, world_size)
    if rest:
        raise ValueError(
            f"batch_size {config.batch_size} counts all ranks and must be a multiple of "
            f"world_size {world_size}"
        )
    if len(dataset) < config.batch_size:
        raise ValueError(f"{len(dataset)} samples do not fill one batch of {config.batch_size}")
    if start_sample % config.batch_size:
        raise ValueError(
            f"cannot resume after {start_sample} samples with batch_size {config.batch_size}; "
            "keep the batch_size of the run"
        )
    plans = _TrainPlans(
        dataset, config, seed, slice(rank * per_rank, (rank + 1) * per_rank), start_sample
    )
    loader = _data_loader(_reader(dataset, config, tokenizer, seed), plans, config)
    return TrainLoader(loader, config, len(dataset) / world_size)


def build_eval_loader(
    dataset: ClipDataset,
    config: LoaderConfig,
    tokenizer: Tokenizer | None,
    *,
    rank: int,
    world_size: int,
    every: int = 1,
) -> EvalLoader:
    """Every sample exactly once over all ranks: this rank has ``rank, rank + world_size, ...``.

    With ``every`` above 1 only every n-th row of the dataset.
    """
    order: Sequence[int] = range(0, len(dataset), every)
    if isinstance(dataset, OrdersEvaluation):
        order = [row for row in dataset.evaluation_order() if row % every == 0]
    mine = order[rank::world_size]
    size = config.eval_batch_size
    plans = [BatchPlan(None, tuple(mine[i : i + size])) for i in range(0, len(mine), size)]
    loader = _data_loader(_reader(dataset, config, tokenizer, seed=0), plans, config)
    return EvalLoader(loader, config, len(mine))


@dataclass
class _TrainPlans:
    """The endless list of a rank's batches."""

    dataset: ClipDataset
    config: LoaderConfig
    seed: int
    part: slice
    start_sample: int

    def __iter__(self) -> Iterator[BatchPlan]:
        order = sample_order(
            self.dataset,
            seed=self.seed,
            clips_per_chunk=self.config.clips_per_chunk,
            shuffle_window=self.config.shuffle_window,
        )
        batches = global_batches(
            order, start_sample=self.start_sample, batch_size=self.config.batch_size
        )
        for epoch, indices in batches:
            yield BatchPlan(epoch, tuple(indices[self.part].tolist()))


def _reader(
    dataset: ClipDataset, config: LoaderConfig, tokenizer: Tokenizer | None, seed: int
) -> torch.utils.data.Dataset:
    if isinstance(dataset, ReadsBatches):
        return dataset.batch_reader(config, seed)
    if isinstance(dataset, ReadsItems):
        return ItemReader(dataset, config, tokenizer, seed)
    return BatchReader(dataset, config, tokenizer, seed)


def _data_loader(
    reader: torch.utils.data.Dataset, plans: object, config: LoaderConfig
) -> DataLoader:
    workers = config.num_workers
    return DataLoader(
        reader,
        batch_size=None,  # a plan is a whole batch already
        sampler=plans,  # type: ignore[arg-type]  any iterable serves
        num_workers=workers,
        prefetch_factor=config.prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        timeout=config.batch_timeout_sec if workers else 0,
        worker_init_fn=_start_worker,
        # its own, so that making an iterator draws nothing from the model's random numbers
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    """Leave stopping to the training process.

    Slurm may send its signals to every process of a job; a loading process that died of one would
    stop the training before it has saved. A TERM of the training process itself still ends it, and
    torch ends it when the training process is gone.
    """
    # open files of the training process came along with the fork; freeing them here could wait for
    # threads that did not
    gc.freeze()
    for ignored in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_by_parent, args=(parent.pid,), daemon=True).start()


def _end_by_parent(parent: int | None) -> None:
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent:
            os._exit(0)


class _Watch:
    """Counts failures and turns what torch reports about its processes into clear errors."""

    def __init__(self, config: LoaderConfig, num_samples: float) -> None:
        self._config = config
        self._num_samples = num_samples
        self.counters = Counters()

    def batches(self, loader: DataLoader) -> Generator[Batch, None, None]:
        iterator = iter(loader)
        while True:
            try:
                loaded: LoadedBatch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explain(error) from error
            for index, failure in loaded.bad:
                self._count(index, failure)
            if loaded.batch is not None:
                self.counters.samples += len(loaded.batch.index)
                yield loaded.batch

    def _count(self, index: int, failure: DecodeError) -> None:
        if self._config.on_error == "raise":
            raise failure
        counters = self.counters
        counters.bad_samples.add(index)
        if failure.path not in counters.bad_files:
            counters.bad_files[failure.path] = failure.reason
            log.warning("sample %d left out: %s", index, failure)
        limit = self._config.max_bad_fraction * self._num_samples
        if len(counters.bad_samples) > limit:
            files = ", ".join(str(path) for path in list(counters.bad_files)[:5])
            raise LoaderError(
                f"{len(counters.bad_samples)} unreadable samples are more than max_bad_fraction "
                f"{self._config.max_bad_fraction:g} of {self._num_samples:g}; files: {files}"
            ) from failure

    def _explain(self, error: RuntimeError) -> RuntimeError:
        message = str(error)
        if message.startswith("DataLoader timed out"):
            return LoaderError(
                f"no batch within batch_timeout_sec {self._config.batch_timeout_sec:g}: a loading "
                "process hangs; look at the storage, or raise loader.batch_timeout_sec"
            )
        if message.startswith("DataLoader worker"):
            return LoaderError(
                f"a loading process died ({message}); often memory: lower loader.num_workers, "
                "loader.open_readers or loader.prefetch"
            )
        return error
