"""A captioner with frozen parts on two ranks, replicated and sharded, against one process."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from egovl import dist
from egovl.data.configs import PromptTokenizerConfig
from egovl.data.types import Batch
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.optim import build_optimizer
from egovl.engine.parallel import clip_grad_norm, shard, wrap
from egovl.models.captioner.configs import (
    CaptionerConfig,
    FrameEncoderConfig,
    MediaAttentionConfig,
    MPTConfig,
    ResamplerConfig,
)
from egovl.tasks.view_configs import CaptioningConfig
from tests.parity.checks_egoinstructor_data import TOKENIZER
from tests.ranks import run_ranks

TINY = CaptionerConfig(
    vision=FrameEncoderConfig(16, 8, 12, 24, 1, 2),
    resampler=ResamplerConfig(depth=1, heads=2, head_width=6, num_latents=3, max_frames=2),
    decoder=MPTConfig(vocab_size=340, width=24, depth=2, heads=2, mlp_ratio=2, context_length=64),
    media=MediaAttentionConfig(every=2, heads=2, head_width=6),
    gate_init=0.7,
)
PROMPTS = (
    "<image>User:what? GPT:<answer>cut it<|endofchunk|>",
    "<image>User:what? GPT:<answer>now she lifts the red pot and puts it away<|endofchunk|>",
    "<image>User:what? GPT:<answer>open<|endofchunk|><image>User:what? GPT:<answer>a<|endofchunk|>",
    "<image>User:what? GPT:<answer>take the lid off<|endofchunk|>",
)
STEPS = 3
Outcome = tuple[list[float], dict[str, Tensor], dict[str, Tensor]]


def train(parallel: str, frozen_bf16: bool = False) -> Outcome:
    """Losses of a few steps on this rank's rows; last gradients and all weights, whole."""
    torch.manual_seed(0)
    model = replace(TINY, frozen_bf16=frozen_bf16).build().train()
    tokenizer = PromptTokenizerConfig(file=TOKENIZER, context_length=64).build()
    task = CaptioningConfig().build()
    task.bind(SimpleNamespace(references=[]), tokenizer)
    tokens, mask = tokenizer(PROMPTS)
    video = torch.randint(0, 256, (len(PROMPTS), 2, 2, 3, 16, 16)).float()
    batch = Batch(torch.arange(len(PROMPTS)), video, tokens, mask, {})
    mine = len(PROMPTS) // dist.world_size()
    batch = batch[slice(dist.rank() * mine, (dist.rank() + 1) * mine)]
    if parallel == "fsdp2":
        shard(model, torch.device("cpu"))
    optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=0.1))
    network = wrap(model, TrainerConfig(steps=STEPS), torch.device("cpu"))
    trained = [param for param in model.parameters() if param.requires_grad]
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=frozen_bf16):
            output = task.train_step(network, batch)
        output.loss.backward()
        clip_grad_norm(trained, 1.0)
        losses.append(dist.mean_over_ranks(output.loss.detach()).item())
        optimizer.step()
    params = dict(model.named_parameters())
    assert all(param.grad is None for param in params.values() if not param.requires_grad)
    if parallel == "fsdp2":
        assert all(isinstance(param, DTensor) for param in params.values())  # frozen ones too
    grads = {name: whole(p.grad) for name, p in params.items() if p.grad is not None}
    return losses, grads, {name: whole(param.detach()) for name, param in params.items()}


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def train_all_ways() -> dict[str, Outcome]:
    ways = (("ddp", False), ("fsdp2", False), ("fsdp2", True))
    return {f"{parallel} {bf16}": train(parallel, bf16) for parallel, bf16 in ways}


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns_and_the_frozen_part_stays() -> None:
    torch.manual_seed(0)
    first = TINY.build()
    frozen = {name for name, param in first.named_parameters() if not param.requires_grad}
    assert any(name.startswith("vision.") for name in frozen)
    expected = {half: train("ddp", half) for half in (False, True)}
    for outcomes in run_ranks(2, train_all_ways, limit_sec=400):
        for way, (losses, grads, weights) in outcomes.items():
            half = way.endswith("True")
            atol, rtol = (2e-2, 2e-2) if half else (1e-5, 1e-4)
            true_losses, true_grads, true_weights = expected[half]
            torch.testing.assert_close(losses, true_losses, atol=atol, rtol=rtol)
            assert losses[-1] < losses[0]
            assert set(grads) == set(true_grads) == set(weights) - frozen
            for name, grad in grads.items():
                torch.testing.assert_close(grad, true_grads[name], atol=atol, rtol=rtol)
            for name in frozen:
                assert torch.equal(weights[name], true_weights[name]), name
