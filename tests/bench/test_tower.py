"""A training step of the space-time tower against the einsum attention of the spec's formula."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from egovl.models.configs import AttentionAxis, VideoTowerConfig
from egovl.models.layers.attention import DividedAttention
from egovl.models.video_transformer import SpaceTimeTransformer
from tests.bench.ratio import report_ratio


@dataclass(frozen=True)
class Step:
    """One training step's sizes."""

    config: VideoTowerConfig
    clips: int


DEMO_SIZES = {"image_size": 64, "width": 96, "depth": 4, "heads": 4, "time_init": "rand"}
STEPS = {
    "64 px, patch 16, width 96": Step(VideoTowerConfig(patch_size=16, **DEMO_SIZES), 64),
    "64 px, patch 8, width 96": Step(VideoTowerConfig(patch_size=8, **DEMO_SIZES), 32),
    "224 px, patch 16, width 768, 2 blocks": Step(VideoTowerConfig(depth=2, time_init="rand"), 1),
}


class EinsumTower(nn.Module):
    """The tower as the papers' formulas read, on the weights of ours."""

    def __init__(self, tower: SpaceTimeTransformer) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        tower, frames = self.tower, video_BCTHW.shape[2]
        images = video_BCTHW.transpose(1, 2).flatten(0, 1)
        patch = tower.patch_embed
        tokens = nn.functional.conv2d(images, patch.weight, patch.bias, stride=patch.patch_size)
        tokens = tokens.flatten(2).transpose(1, 2)
        x = tokens.reshape(len(video_BCTHW), -1, tower.width)
        x = torch.cat([tower.cls_token.expand(len(x), -1, -1), x], dim=1)
        patches = tower.pos_embed.shape[1] - 1
        tiled = tower.pos_embed[:, 1:].repeat(1, frames, 1)
        tiled = tiled + tower.temporal_embed[:, :frames].repeat_interleave(patches, 1)
        x = tower.norm_pre(x + torch.cat([tower.pos_embed[:, :1], tiled], dim=1))
        for block in tower.blocks:
            time = einsum_attention(block.attn_time, block.norm_time(x), frames, "time")
            space = einsum_attention(block.attn_space, block.norm_space(x + time), frames, "space")
            x = x + space
            hidden = block.mlp.fc1(block.norm_mlp(x))
            x = x + block.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return tower.norm(x)[:, 0]


def einsum_attention(
    layer: DividedAttention, x: Tensor, frames: int, axis: AttentionAxis
) -> Tensor:
    batch, heads = len(x), layer.heads

    def split_heads(t: Tensor) -> Tensor:
        return (
            t.reshape(batch, t.shape[1], heads, -1)
            .transpose(1, 2)
            .reshape(batch * heads, t.shape[1], -1)
        )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("bid,bjd->bij", q, k).softmax(dim=-1)
        return torch.einsum("bij,bjd->bid", weights, v)

    def group(t: Tensor) -> Tensor:
        t = t.reshape(len(t), frames, -1, t.shape[-1])
        t = t.transpose(1, 2) if axis == "time" else t
        return t.reshape(-1, t.shape[2], t.shape[3])

    q, k, v = (split_heads(t) for t in layer.qkv(x).chunk(3, dim=-1))
    q = q * q.shape[-1] ** -0.5
    cls_out = attend(q[:, :1], k, v)
    groups = len(group(q[:, 1:])) // len(q)
    k_all, v_all = (
        torch.cat([t[:, :1].repeat_interleave(groups, 0), group(t[:, 1:])], dim=1) for t in (k, v)
    )
    out = attend(group(q[:, 1:]), k_all, v_all)
    out = out.reshape(len(q), groups, -1, q.shape[-1])
    out = out.transpose(1, 2) if axis == "time" else out
    out = torch.cat([cls_out, out.reshape(len(q), -1, q.shape[-1])], dim=1)
    return layer.proj(out.reshape(batch, heads, out.shape[1], -1).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_of_the_tower(name: str, benchmark: BenchmarkFixture) -> None:
    torch.manual_seed(0)
    step = STEPS[name]
    tower = step.config.build().train()
    baseline = EinsumTower(tower)
    size = step.config.image_size
    video = torch.randn(step.clips, 3, step.config.num_frames, size, size)
    cotangent = torch.randn(step.clips, step.config.width)

    def train_step(model: nn.Module) -> Tensor:
        tower.zero_grad()
        out = model(video)
        (out * cotangent).sum().backward()
        return out

    def gradients(model: nn.Module) -> list[Tensor]:
        train_step(model)
        return [p.grad for p in tower.parameters() if p.grad is not None]

    torch.testing.assert_close(tower(video), baseline(video), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(tower), gradients(baseline), atol=1e-2, rtol=1e-3)
    benchmark.pedantic(lambda: train_step(tower), rounds=1)
    report_ratio(f"tower step, {name}", lambda: train_step(tower), lambda: train_step(baseline))
