"""From a recipe's `write:` section to a shard that is being written."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from egovl import config as configuration
from egovl import dist
from egovl.engine.folder import RunFolder
from egovl.engine.heartbeat import beat
from egovl.engine.log import Progress as Bar
from egovl.engine.log import RunLog
from egovl.engine.signals import StopRequest
from egovl.narration.job import Progress, Shard, ShardJob, claim_folder, join_shards
from egovl.recipe import Recipe

logger = logging.getLogger(__name__)

_NOT_SETTINGS = ("out", "shard", "shards", "batches_per_part")


def run_job(
    recipe: Recipe,
    model: nn.Module,
    device: torch.device,
    folder: RunFolder,
    stop: StopRequest,
    checkpoint: str,
) -> tuple[bool, dict[str, float]]:
    """Write this rank's shard; whether it is whole, and what to report.

    Raises:
        ValueError: the folder holds another job's records, or the parts do not fit each other.
    """
    write = recipe.write
    assert write is not None
    out = write.out or folder.path / "narrations"
    job = write.job.build()
    tokenizer = recipe.tokenizer.build()
    samples = job.dataset(write.dataset.build(), write.dataset)
    job.start(model, tokenizer, device)
    claim_folder(out, _settings(recipe, checkpoint, len(samples)))
    loader = replace(write.loader, pixels=job.needs_pixels)
    count = write.shards * dist.world_size()
    number = write.shard * dist.world_size() + dist.rank()
    shard = Shard(out, number, count, write.batches_per_part)
    task = ShardJob(job, samples, loader, shard, recipe.seed, checkpoint[:16])
    watch = _Watch(folder, stop, loader.eval_batch_size)
    try:
        # texts are tokenized by the job, as it wants them
        whole = task.run(None, device, watch)
    finally:
        watch.close()
    metrics: dict[str, float] = {"clips_per_sec": round(watch.pace, 2)}
    if whole:
        clips = join_shards(job, out, count)
        if clips is None:
            logger.info("shard %d of %d is whole; others are still being written", number, count)
        else:
            logger.info("%s: lists of %d clips", out, clips)
            metrics["clips"] = clips
    return whole, metrics


def _settings(recipe: Recipe, checkpoint: str, samples: int) -> dict[str, Any]:
    """What must be the same for all shards of a folder."""
    write = configuration.plain(recipe.write)
    kept = {key: value for key, value in write.items() if key not in _NOT_SETTINGS}
    # how clips are read ahead changes nothing in them
    kept["loader"] = {
        k: v for k, v in kept["loader"].items() if k not in ("num_workers", "prefetch")
    }
    return {**kept, "checkpoint": checkpoint, "seed": recipe.seed, "samples": samples}


class _Watch:
    """Tells how far the shard is, in the run folder and on the screen; asks whether to stop."""

    def __init__(self, folder: RunFolder, stop: StopRequest, batch_size: int) -> None:
        self.pace = 0.0
        self._stop, self._batch_size = stop, batch_size
        self._log = RunLog(folder, 0) if dist.rank() == 0 else None
        self._bar: Bar | None = None
        self._seen = 0

    def __call__(self, progress: Progress) -> bool:
        batches = -(-progress.done // self._batch_size)
        beat("step", batches)
        self.pace = progress.clips_per_sec
        if self._log is not None:
            self._tell(progress, batches)
        return self._stop.requested()

    def _tell(self, progress: Progress, batches: int) -> None:
        assert self._log is not None
        total = -(-progress.total // self._batch_size)
        left = (progress.total - progress.done) / max(self.pace, 1e-9)
        record = {"step": batches, "steps": total, "clips_per_sec": round(self.pace, 3)}
        self._log.train([{**record, "sec_left": round(left, 1)}])
        if self._bar is None:
            self._bar = Bar(total, batches - 1, "batches")
            self._seen = batches - 1
        self._bar.update(batches - self._seen, clips_per_sec=self.pace)
        self._seen = batches

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
        if self._log is not None:
            self._log.close()
