"""Records about the samples of a dataset, one each, by an array of tasks that may be stopped.

A task has a shard of the samples, in batches that its number fixes: what is drawn for a batch
depends on the recipe's seed and the batch alone, so a stopped and resumed shard writes what an
unbroken one writes. Whoever finishes the last shard joins them into lists.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from egovl.atomic import replacing
from egovl.data.loader import build_eval_loader
from egovl.data.subset import Subset
from egovl.data.types import Batch, ClipDataset
from egovl.narration.clips import PlacedClips, require_places
from egovl.narration.lists import write_lists
from egovl.shards import KEY, ShardWriter, read_shards, share_of, unfinished_shards

logger = logging.getLogger(__name__)

SETTINGS = "job.json"
RECORDS = "records"


class Job(Protocol):
    """What is written about a batch of samples."""

    needs_pixels: bool

    def dataset(self, given: ClipDataset, config: Any) -> PlacedClips:
        """The samples to write about, from the recipe's dataset and its config."""
        ...

    def start(self, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        """Take the model, in eval mode on its device."""
        ...

    def write(
        self, batch: Batch, texts: Sequence[Sequence[str]], generator: torch.Generator
    ) -> list[dict[str, Any]]:
        """A record of each row: ``texts`` and their ``scores``. ``texts`` are those annotated."""
        ...

    def finish(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What of all records goes into the lists."""
        ...


@dataclass(frozen=True)
class Shard:
    """Where a task writes and which part is its own."""

    out: Path
    number: int
    count: int
    parts_every: int
    """Batches in a part."""


@dataclass(frozen=True)
class Progress:
    """How far a shard is: rows written and to write, rows a second since this start."""

    done: int
    total: int
    clips_per_sec: float


class Watcher(Protocol):
    """What a shard tells, and asks, after each batch."""

    def __call__(self, progress: Progress) -> bool:
        """True to stop; what was written stays."""
        ...


class ShardJob:
    """One task's share of a job.

    Args:
        job: what is written.
        samples: the dataset that it asked for.
        loader: how clips are read; ``eval_batch_size`` is the size of a batch.
        shard: which part, and where to.
        seed: of all draws.
        checkpoint: hash of the weights, which every record carries.
    """

    def __init__(
        self,
        job: Job,
        samples: PlacedClips,
        loader: Any,
        shard: Shard,
        seed: int,
        checkpoint: str,
    ) -> None:
        self._job, self._samples, self._loader = job, samples, loader
        self._shard, self._seed, self._checkpoint = shard, seed, checkpoint
        self._writer = ShardWriter(shard.out / RECORDS, shard.number, shard.count)

    def run(self, tokenizer: Any, device: torch.device, watch: Watcher) -> bool:
        """Write what is missing; True if the shard is whole, False if it was stopped."""
        size = self._loader.eval_batch_size
        mine = share_of(range(len(self._samples)), self._shard.number, self._shard.count)
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        finished = self._writer.finished_keys()
        waiting = [rows for rows in batches if any(_key(row) not in finished for row in rows)]
        done = len(mine) - sum(map(len, waiting))
        began, first = time.monotonic(), done
        pending: list[dict[str, Any]] = []
        for number, (rows, batch) in enumerate(self._batches(waiting, tokenizer), 1):
            pending += [r for r in self._records(rows, batch, device) if r[KEY] not in finished]
            done += len(rows)
            pace = (done - first) / max(time.monotonic() - began, 1e-9)
            stop = watch(Progress(done, len(mine), pace)) and number < len(waiting)
            if stop or number % self._shard.parts_every == 0 or number == len(waiting):
                self._writer.append(pending)
                pending = []
            if stop:
                return False
        self._writer.close()
        return True

    def _batches(self, waiting: list[list[int]], tokenizer: Any) -> Any:
        """Rows and what was read of them; a batch of which nothing can be read is None."""
        flat = [row for rows in waiting for row in rows]
        loader = build_eval_loader(
            Subset(self._samples, flat), self._loader, tokenizer, rank=0, world_size=1
        )
        # a batch whose every clip is unreadable is left out by the loader: match by rows
        ahead = iter(loader) if flat else iter(())
        batch = next(ahead, None)
        for rows in waiting:
            fits = batch is not None and int(batch.index[0]) in rows
            yield rows, batch if fits else None
            if fits:
                batch = next(ahead, None)

    def _records(
        self, rows: list[int], batch: Batch | None, device: torch.device
    ) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        if batch is not None:
            texts = [self._samples[row].texts for row in batch.index.tolist()]
            generator = torch.Generator(device)
            generator.manual_seed(_draw_seed(self._seed, rows[0]))
            with torch.no_grad():
                written = self._job.write(batch.to(device), texts, generator)
            found = dict(zip(batch.index.tolist(), written, strict=True))
        return [self._record(row, found.get(row)) for row in rows]

    def _record(self, row: int, written: Mapping[str, Any] | None) -> dict[str, Any]:
        uid, start, end = self._samples.place(row)
        place = {"video_uid": uid, "start_sec": start, "end_sec": end}
        beside = {KEY: _key(row), "index": row, "checkpoint": self._checkpoint}
        # an unreadable clip has a record too, so that nobody tries it again and again
        told = written or {"texts": [], "scores": [], "unreadable": True}
        return {**beside, **place, **told}


def claim_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Note what is written into a folder; another job's folder is refused.

    Raises:
        ValueError: the folder holds records of other settings; it names the first that differs.
    """
    path = out / SETTINGS
    asked = json.loads(json.dumps(settings))
    if not path.exists():
        with replacing(path) as file:
            json.dump(asked, file, indent=1)
        return
    stored = json.loads(path.read_text())
    differ = [key for key in {**stored, **asked} if stored.get(key) != asked.get(key)]
    if differ:
        key = differ[0]
        raise ValueError(
            f"{out} holds records written with {key}={stored.get(key)!r}, asked {asked.get(key)!r}:"
            " name another folder as `out`, or remove this one"
        )


def join_shards(job: Job, out: Path, count: int) -> int | None:
    """Join all records into lists once every shard is whole; the number of clips, or None."""
    if unfinished_shards(out / RECORDS, count):
        return None
    records = sorted(read_shards(out / RECORDS), key=lambda record: record["index"])
    lost = sum(bool(record.get("unreadable")) for record in records)
    if lost:
        logger.warning("%d of %d clips could not be read and have no text", lost, len(records))
    return write_lists(job.finish(records), out)


def annotated_clips(given: ClipDataset) -> PlacedClips:
    """The dataset as it is, for jobs that write about its own clips."""
    return require_places(given)


def _key(row: int) -> str:
    return f"{row:09d}"


def _draw_seed(seed: int, first_row: int) -> int:
    return (seed << 32) + first_row
