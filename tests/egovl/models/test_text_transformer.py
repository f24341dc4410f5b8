from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from egovl.models.configs import TextTowerConfig
from egovl.models.text_transformer import TextTransformer

TINY = TextTowerConfig(vocab_size=50, context_length=10, width=32, heads=2, depth=2)
END = 49


def tower(causal: bool = True) -> TextTransformer:
    torch.manual_seed(0)
    return TextTowerConfig(**{**TINY.__dict__, "causal": causal}).build().eval()


def texts() -> Tensor:
    tokens = torch.randint(1, END, (3, 10), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((3, 9, 5)):
        tokens[row, end] = END
        tokens[row, end + 1 :] = 0
    return tokens


@pytest.mark.parametrize("causal", [True, False])
def test_the_feature_is_the_row_of_the_end_of_text_token(causal: bool) -> None:
    model, tokens = tower(causal), texts()
    rows = model.forward_tokens(tokens)[torch.arange(3), tokens.argmax(-1)]
    torch.testing.assert_close(model(tokens), rows, atol=1e-6, rtol=1e-5)


def test_what_follows_the_end_of_text_token_does_not_matter() -> None:
    model, tokens = tower(), texts()
    other = tokens.clone()
    other[0, 4:] = 7
    torch.testing.assert_close(model(other), model(tokens), atol=0, rtol=0)


def test_a_batch_may_be_cut_after_its_longest_text() -> None:
    model, tokens = tower(), texts()[[0, 2]]
    torch.testing.assert_close(model(tokens[:, :6]), model(tokens), atol=1e-6, rtol=1e-5)


def test_a_text_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(ValueError, match="11 tokens: this tower has 10 positions"):
        tower()(torch.zeros(1, 11, dtype=torch.long))


def test_a_block_equals_torch_multi_head_attention_with_a_causal_mask() -> None:
    block, x = tower().blocks[0], torch.randn(2, 6, 32)
    attention = nn.MultiheadAttention(32, 2, batch_first=True)
    attention.in_proj_weight, attention.in_proj_bias = block.attn.qkv.weight, block.attn.qkv.bias
    attention.out_proj = block.attn.proj
    mask = torch.full((6, 6), -torch.inf).triu(1)
    normed = block.norm_attn(x)
    y = x + attention(normed, normed, normed, attn_mask=mask)[0]
    hidden = block.mlp.fc1(block.norm_mlp(y))
    y = y + block.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
    torch.testing.assert_close(block(x, causal=True), y, atol=1e-6, rtol=1e-5)
