"""Parent steps of HierVL: stored embeddings of clips, and gradient checkpointing.

The baseline of the first is the same step from pixels, as published; its loss is the same. The
second measures the peak of a process that makes one step on 4 videos of 16 clips, over what it held
before the step; its losses are the same with and without checkpointing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from egovl.data.types import Batch
from egovl.models.configs import DualEncoderConfig, TextTowerConfig, VideoTowerConfig
from egovl.models.hierarchical_encoder import HierarchicalEncoder
from egovl.models.hierarchy_configs import HierarchicalEncoderConfig
from egovl.tasks.hierarchical import Hierarchical
from egovl.tasks.hierarchy_configs import HierarchicalConfig
from egovl.tasks.views import encode_views
from tests.architecture.source import ROOT
from tests.bench.memory import rise_mib
from tests.bench.ratio import report_ratio

VIDEOS, CLIPS, FRAMES, TOKENS = 4, 16, 4, 32


def build(side: int, width: int, depth: int, **options: Any) -> HierarchicalEncoder:
    checkpointing = options.pop("gradient_checkpointing", False)
    encoder = DualEncoderConfig(
        video=VideoTowerConfig(
            image_size=side,
            width=width,
            depth=depth,
            heads=4,
            time_init="rand",
            gradient_checkpointing=checkpointing,
        ),
        text=TextTowerConfig(vocab_size=512, context_length=TOKENS, width=64, heads=4, depth=2),
        embed_dim=64,
    )
    torch.manual_seed(0)
    return HierarchicalEncoderConfig(encoder=encoder, **options).build()


def parents(side: int) -> Batch:
    draw = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(1, 512, shape, generator=draw)

    pixels = VIDEOS, CLIPS, 3, FRAMES, side, side
    return Batch(
        index=torch.arange(VIDEOS),
        video=torch.randint(0, 256, pixels, dtype=torch.uint8, generator=draw),
        tokens=tokens(VIDEOS, TOKENS),
        token_mask=torch.ones(VIDEOS, TOKENS, dtype=torch.bool),
        labels={},
        narrations=tokens(VIDEOS, CLIPS, TOKENS),
        narration_mask=torch.ones(VIDEOS, CLIPS, TOKENS, dtype=torch.bool),
    )


class Stored:
    """Embeddings of all clips, by sample."""

    def __init__(self, clips: Tensor) -> None:
        self._clips = clips

    def rows(self, index: Tensor) -> Tensor:
        return self._clips[index]


def step(task: Hierarchical, model: HierarchicalEncoder, batch: Batch) -> float:
    """Loss of a step, seeded as the trainer does, so that drop path draws alike."""
    torch.manual_seed(0)
    loss = task.train_step(model, batch).loss
    loss.backward()
    model.zero_grad(set_to_none=True)
    return loss.item()


@pytest.mark.benchmark(group="hierarchical")
def test_parent_step_on_stored_clips(benchmark: BenchmarkFixture) -> None:
    model, batch = build(64, 96, 4, frozen="video").train(), parents(64)
    by_pixels, by_store = HierarchicalConfig().build(), HierarchicalConfig().build()
    assert batch.video is not None
    with torch.no_grad():
        by_store.use_clips(Stored(encode_views(model.encode_video, batch.video, "clip")))
    bare = Batch(
        batch.index,
        None,
        batch.tokens,
        batch.token_mask,
        {},
        batch.narrations,
        batch.narration_mask,
    )
    expected = step(by_pixels, model, batch)
    assert abs(step(by_store, model, bare) - expected) < 1e-4
    found = report_ratio(
        f"parent step, {VIDEOS} videos of {CLIPS} clips, frozen tower, stored clips",
        lambda: step(by_store, model, bare),
        lambda: step(by_pixels, model, batch),
    )
    benchmark.extra_info.update(ratio=found.ratio)
    benchmark.pedantic(lambda: step(by_store, model, bare), rounds=3)


def peak(checkpointing: bool) -> dict[str, float]:
    """Loss and MiB of one step in a process of its own."""
    words = [sys.executable, "-m", "tests.bench.test_bench_hierarchical", str(int(checkpointing))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.benchmark(group="hierarchical")
def test_memory_of_a_parent_step_of_64_clips(benchmark: BenchmarkFixture) -> None:
    plain, checkpointed = peak(False), peak(True)
    assert abs(plain["loss"] - checkpointed["loss"]) < 1e-5
    ratio = plain["mib"] / checkpointed["mib"]
    print(
        f"\nparent step of {VIDEOS * CLIPS} clips: {plain['mib']:.0f} MiB, with gradient "
        f"checkpointing {checkpointed['mib']:.0f} MiB, ratio {ratio:.2f}"
    )
    benchmark.extra_info.update(ratio=ratio)
    benchmark.pedantic(lambda: None, rounds=1)


def measure(checkpointing: bool) -> dict[str, float]:
    """One step; the process's peak over what it held before."""
    batch = parents(112)
    model = build(112, 192, 8, gradient_checkpointing=checkpointing).train()
    task = HierarchicalConfig().build()
    losses: list[float] = []
    mib = rise_mib(lambda: losses.append(step(task, model, batch)))
    return {"loss": losses[0], "mib": mib}


if __name__ == "__main__":
    print(json.dumps(measure(bool(int(sys.argv[1])))))
