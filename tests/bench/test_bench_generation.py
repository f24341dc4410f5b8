"""Narrations with cached keys and values against reading the whole prefix for each token.

GPT-2 base size, 76 steps, ten texts of each clip, greedy and without an end token, so that every
step is done and the ids of both must be the same. The baseline is LaViLa's loop (its spec, 2.9).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from egovl.models.configs import VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate
from egovl.models.narrator import Narrator

STEPS, TEXTS = 76, 10
START = 50256


def narrator(device: torch.device) -> Narrator:
    """GPT-2 base with a look at 256 tokens in every layer; the tower is not run."""
    torch.manual_seed(0)
    config = NarratorConfig(
        video=VideoTowerConfig(image_size=32, depth=1),
        decoder=GPT2Config(cross_every=1, gated=False, dropout=0.0),
    )
    return Narrator(config).eval().to(device)


@torch.no_grad()
def whole_prefix(model: Narrator, clips: Tensor, steps: int) -> Tensor:
    """Each step reads all tokens again, for every text of a clip on its own copy of the clip."""
    copies = clips.repeat_interleave(TEXTS, dim=0)
    ids = torch.full((len(copies), 1), START, device=clips.device)
    for _ in range(steps):
        logits = model.decode(copies, ids)[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, 1:]


def cached(model: Narrator, clips: Tensor, steps: int) -> Tensor:
    config = GenerationConfig(
        strategy="greedy", max_new_tokens=steps, num_return_sequences=TEXTS, eos_id=-1
    )
    prompt = torch.full((len(clips), 1), START, device=clips.device)
    return generate(model.writer(clips), prompt, config).ids


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)
def test_narrating_with_a_cache(device: str, benchmark: BenchmarkFixture) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    model = narrator(torch.device(device))
    clips = torch.randn(1, 256, 768, device=device)

    for write in (cached, whole_prefix):
        write(model, clips, 2)  # warm
    # once each: reading the whole prefix takes minutes
    ours_sec, ours = timed(lambda: cached(model, clips, STEPS).cpu())
    theirs_sec, theirs = timed(lambda: whole_prefix(model, clips, STEPS).cpu())
    assert torch.equal(ours, theirs)
    rates = [STEPS * TEXTS / seconds for seconds in (ours_sec, theirs_sec)]
    print(
        f"\nnarrations ({device}): {rates[0]:.0f} tokens/s with the cache, {rates[1]:.1f} without, "
        f"ratio {theirs_sec / ours_sec:.1f}"
    )
    benchmark.extra_info["ratio"] = theirs_sec / ours_sec
    benchmark.pedantic(lambda: cached(model, clips, STEPS), rounds=1)


def timed(write: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    ids = write()
    return time.perf_counter() - started, ids
