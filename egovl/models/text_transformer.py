"""CLIP's text tower.

Letters: B batch, L tokens of a text, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.configs import CLIP_NORM_EPS, TextTowerConfig
from egovl.models.layers.transformer_block import TransformerBlock


class TextTransformer(nn.Module):
    """Token ids to the feature of the end-of-text token."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.token_embed = nn.Embedding(config.vocab_size, config.width)
        self.pos_embed = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=CLIP_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as CLIP does."""
        width, depth = self.config.width, self.config.depth
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            nn.init.normal_(block.attn.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.attn.proj.weight, std=(2 * depth * width) ** -0.5)
            nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=(2 * depth * width) ** -0.5)

    def forward(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the normalised feature [B, D] at the end-of-text token.

        That token has the largest id, so it is found by argmax; what follows it cannot matter to
        a causal tower, which is why `token_mask_BL` is accepted and not needed.

        Raises:
            ValueError: more tokens than the tower has positions.
        """
        x_BLD = self._embed(tokens_BL)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, causal=self.config.causal)
        end_B = tokens_BL.argmax(dim=-1)
        last = self.blocks[-1](x_BLD, causal=self.config.causal, last_B=end_B)
        return self.norm(last.squeeze(1))

    def forward_tokens(self, tokens_BL: Tensor, token_mask_BL: Tensor | None = None) -> Tensor:
        """Return the normalised features of all tokens [B, L, D]."""
        x_BLD = self._embed(tokens_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, causal=self.config.causal)
        return self.norm(x_BLD)

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        length = tokens_BL.shape[1]
        if length > self.config.context_length:
            raise ValueError(
                f"texts of {length} tokens: this tower has {self.config.context_length} positions; "
                "tokenize with that context length"
            )
        return self.token_embed(tokens_BL) + self.pos_embed[:length]
