from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egovl.models.configs import AttentionAxis
from egovl.models.layers.attention import ClipShape, SelfAttention, divided_attention


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
