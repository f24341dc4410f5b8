"""Makes a batch from a list of sample indices; runs in the loading processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from egovl.data.clips import ClipReader, ClipRequest, Frames
from egovl.data.collate import Tokenizer, collate, crop_clip, pick_text
from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError, choose_backend
from egovl.data.randomness import PARTNER, REPLACEMENT, SHUFFLE, VISIT, SampleRandom
from egovl.data.types import Batch, ClipDataset, DrawsSamples, HasPartners, Sample

_MAX_REPLACEMENTS = 20


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which samples a rank's next batch holds; without an epoch it is an evaluation batch."""

    epoch: int | None
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch and the samples that could not be read; no batch if nothing could."""

    batch: Batch | None
    bad: tuple[tuple[int, DecodeError], ...]

    def pin_memory(self) -> LoadedBatch:
        """The same with the batch in page-locked memory."""
        return LoadedBatch(self.batch.pin_memory() if self.batch else None, self.bad)


@dataclass(slots=True)
class _Row:
    """One row of the batch on its way: the sample it holds now, and its random numbers."""

    sample: Sample
    randoms: list[SampleRandom] | None  # one per clip; None in evaluation
    clips: list[Tensor] | None = None
    tries: int = 0


class BatchReader(torch.utils.data.Dataset):
    """Maps a `BatchPlan` to a `LoadedBatch`, a pure function of the plan and the files.

    An unreadable training sample is replaced by one drawn from (seed, epoch, its index, try), which
    is the same on every rank and for any number of processes.
    """

    def __init__(
        self, dataset: ClipDataset, config: LoaderConfig, tokenizer: Tokenizer | None, seed: int
    ) -> None:
        choose_backend(config.backend)  # an unusable one stops here, not in a loading process
        self._dataset = dataset
        self._config = config
        self._tokenizer = tokenizer
        self._seed = seed
        self._reader: ClipReader | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}  # open files stay where they were opened

    def __getitem__(self, plan: BatchPlan) -> LoadedBatch:
        rows = [self._row(index, plan.epoch) for index in self._with_partners(plan)]
        bad: list[tuple[int, DecodeError]] = []
        waiting = rows
        while waiting:
            failed = self._fill(waiting)
            bad += [(row.sample.index, error) for row, error in failed]
            if plan.epoch is None or self._config.on_error == "raise":
                break
            waiting = [self._replace(row, plan.epoch, error) for row, error in failed]
        done = [row for row in rows if row.clips is not None]
        return LoadedBatch(self._collate(done) if done else None, tuple(bad))

    def _with_partners(self, plan: BatchPlan) -> list[int]:
        """Anchors, then their partners (EgoVLP's order), where the dataset has partners."""
        dataset, indices = self._dataset, list(plan.indices)
        if plan.epoch is None or not isinstance(dataset, HasPartners) or not dataset.has_partners:
            return indices
        draws = [SampleRandom(self._seed, plan.epoch, i, PARTNER).integer for i in indices]
        return indices + [dataset.partner(i, draw) for i, draw in zip(indices, draws, strict=True)]

    def _row(self, index: int, epoch: int | None) -> _Row:
        if epoch is None:
            return _Row(self._dataset[index], None)
        if isinstance(self._dataset, DrawsSamples):
            visit = SampleRandom(self._seed, epoch, index, VISIT)
            sample = self._dataset.draw_sample(index, visit)
        else:
            sample = self._dataset[index]
        return _Row(
            sample,
            [SampleRandom(self._seed, epoch, index, k) for k in range(len(sample.clips))],
        )

    def _fill(self, rows: list[_Row]) -> list[tuple[_Row, DecodeError]]:
        """Read and crop the clips of rows; the rows that fail, and why."""
        if not self._config.pixels:
            for row in rows:
                row.clips = []
            return []
        if self._reader is None:
            self._reader = ClipReader(self._config)
        requests, owners = [], []
        for row in rows:
            for k, clip in enumerate(row.sample.clips):
                draw = row.randoms[k].integer if row.randoms else None
                requests.append(ClipRequest(clip, draw))
                owners.append(row)
        results: dict[int, list[Frames | DecodeError]] = {}
        for row, frames in zip(owners, self._reader.read(requests), strict=True):
            results.setdefault(id(row), []).append(frames)
        failed = []
        for row in rows:
            frames = results[id(row)]
            error = next((f for f in frames if isinstance(f, DecodeError)), None)
            if error is not None:
                failed.append((row, error))
                continue
            randoms = row.randoms or [None] * len(frames)
            row.clips = [
                view
                for k, (f, random) in enumerate(zip(frames, randoms, strict=True))
                if not isinstance(f, DecodeError)
                for view in crop_clip(self._in_order(f, row.sample.index, k), self._config, random)
            ]
        return failed

    def _in_order(self, frames: Frames, index: int, clip: int) -> Frames:
        """The frames as they are, or in an order of the sample's own (``shuffle_frames``)."""
        if not self._config.shuffle_frames:
            return frames
        return frames[SampleRandom(self._seed, 0, index, SHUFFLE + clip).order(len(frames))]

    def _replace(self, row: _Row, epoch: int, error: DecodeError) -> _Row:
        if row.tries == _MAX_REPLACEMENTS:
            raise DecodeError(
                error.path,
                error.span,
                f"{error.reason}; {_MAX_REPLACEMENTS} other samples drawn in its place failed too",
            ) from error
        random = SampleRandom(self._seed, epoch, row.sample.index, REPLACEMENT + row.tries)
        fresh = self._row(random.integer(0, len(self._dataset) - 1), epoch)
        row.sample, row.randoms, row.tries = fresh.sample, fresh.randoms, row.tries + 1
        return row

    def _collate(self, rows: list[_Row]) -> Batch:
        texts = [
            pick_text(row.sample.texts, row.randoms[0].integer if row.randoms else None)
            for row in rows
        ]
        samples = [row.sample for row in rows]
        videos = [row.clips or [] for row in rows]
        return collate(samples, videos, texts, self._tokenizer, self._dataset.label_sizes)
