from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egovl.models.configs import AttentionAxis
from egovl.models.layers.attention import (
    ClipShape,
    SelfAttention,
    divided_attention,
    local_attention,
)


def attention_by_mask(qkv: Tensor, shape: ClipShape, axis: AttentionAxis) -> Tensor:
    """The same rule as one masked attention over all tokens, written from the spec."""
    index = torch.arange(shape.frames * shape.patches)
    group = index // shape.patches if axis == "space" else index % shape.patches
    visible = torch.ones(1 + len(index), 1 + len(index), dtype=torch.bool)
    visible[1:, 1:] = group[:, None] == group[None]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("axis", ["space", "time"])
@pytest.mark.parametrize("shape", [ClipShape(3, 4), ClipShape(1, 4), ClipShape(2, 40)])
def test_divided_attention_is_masked_attention_with_the_same_gradient(
    axis: AttentionAxis, shape: ClipShape
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 1 + shape.frames * shape.patches, 3, 2, 8, requires_grad=True)
    ours, plain = divided_attention(qkv, shape, axis), attention_by_mask(qkv, shape, axis)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(ours)
    own_grad, plain_grad = (torch.autograd.grad((o * weight).sum(), qkv)[0] for o in (ours, plain))
    torch.testing.assert_close(own_grad, plain_grad, atol=1e-5, rtol=1e-5)


def test_attention_from_one_token_is_that_row_of_the_whole_attention() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(16, 2), torch.randn(3, 5, 16)
    whole = attention(x, causal=True)
    visible = torch.tensor([[True, True, True, False, False]]).expand(3, -1)
    one = attention.forward_at(x, x[:, 2:3], visible)
    torch.testing.assert_close(one[:, 0], whole[:, 2])


@pytest.mark.parametrize("length", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("window", [3, 9])
def test_local_attention_is_attention_under_a_band(length: int, window: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 4, length, 6, generator=generator).unbind(0)
    visible = torch.arange(length) < torch.tensor([[length], [max(1, length // 2)]])
    bias = torch.randn(4, window, generator=generator)
    place = torch.arange(length)
    offset = place - place[:, None] + window // 2
    band = (offset >= 0) & (offset < window)
    scores = bias[:, offset.clamp(0, window - 1)].masked_fill(~band, float("-inf"))
    scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
    local = local_attention(q, k, v, window, visible, bias)
    rows = visible[:, None, :, None].expand_as(whole)
    torch.testing.assert_close(local[rows], whole[rows], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(local).all()
