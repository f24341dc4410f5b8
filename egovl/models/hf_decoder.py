"""GPT-2, base to XL, with gated cross-attention in every k-th layer (LaViLa spec 2.6).

Its weights come from a Hugging Face folder through `egovl.convert`; the network is our own, as it
carries keys and values from token to token. Letters: B batch, R rows being written, L tokens, D
width, V vocabulary, H heads, d width of a head, C clips, N tokens of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovl.models.decoder_configs import GPT2Config
from egovl.models.layers.attention import FusedAttention
from egovl.models.layers.cross_attention import CrossAttention, RowsOfClips, TanhGate
from egovl.models.layers.key_value_cache import KeyValueCache, LayerCache
from egovl.models.layers.mlp import Mlp


class CausalAttention(FusedAttention):
    """Self-attention that may append to a cache instead of seeing the whole sequence anew."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads)
        self.dropout = dropout

    def forward(self, x_RLD: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Return [R, L, D]; every token sees itself and what stands before it."""
        qkv = self.qkv(x_RLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mask, causal = None, True
        if cache is not None:
            k, v, mask = cache.append(k, v)
            causal = False
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout
        )
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """What a layer adds before its own attention: a look at the clip, and a perceptron.

    Both are gated, or added as they are where the config has no gates.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.norm_attn = nn.LayerNorm(width, eps=eps)
        self.attn = CrossAttention(width, width, config.heads, dropout=config.dropout)
        self.norm_mlp = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width, "squared_relu")
        self.gate_attn = TanhGate() if config.gated else nn.Identity()
        self.gate_mlp = TanhGate() if config.gated else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_RLD: Tensor, context_CND: Tensor, cache: LayerCache | None, rows: RowsOfClips | None
    ) -> Tensor:
        """Return [R, L, D]; a cache computes the clips' keys and values the first time."""
        memory = None if cache is None else cache.memory
        if memory is None:
            memory = self.attn.remember(context_CND)
        if cache is not None:
            cache.memory = memory
        seen = self.dropout(self.attn(self.norm_attn(x_RLD), memory, rows))
        x_RLD = x_RLD + self.gate_attn(seen)
        return x_RLD + self.gate_mlp(self.dropout(self.mlp(self.norm_mlp(x_RLD))))


class DecoderBlock(nn.Module):
    """Pre-norm block of GPT-2; `cross` stands in every k-th."""

    def __init__(self, config: GPT2Config, *, cross: bool) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.cross = CrossBlock(config) if cross else None
        self.norm_attn = nn.LayerNorm(width, eps=eps)
        self.attn = CausalAttention(width, config.heads, config.dropout)
        self.norm_mlp = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width, "gelu_tanh")
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_RLD: Tensor,
        context_CND: Tensor | None = None,
        cache: LayerCache | None = None,
        rows: RowsOfClips | None = None,
    ) -> Tensor:
        """Return [R, L, D]; without a context the text is written blindly."""
        if self.cross is not None and context_CND is not None:
            x_RLD = self.cross(x_RLD, context_CND, cache, rows)
        x_RLD = x_RLD + self.dropout(self.attn(self.norm_attn(x_RLD), cache))
        return x_RLD + self.dropout(self.mlp(self.norm_mlp(x_RLD)))


class GPT2(nn.Module):
    """Token ids to logits of the next token; the output matrix is the embedding's."""

    forward_methods = ("read",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.token_embed = nn.Embedding(config.vocab_size, config.width)
        self.pos_embed = nn.Embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(
            DecoderBlock(config, cross=config.attends_at(i)) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.reset_parameters()
        if config.frozen:
            for name, parameter in self.named_parameters():
                parameter.requires_grad = ".cross." in name

    def reset_parameters(self) -> None:
        """Draw the published initial values."""
        deep = 0.02 / math.sqrt(2 * self.config.depth)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                is_last = name.endswith((".proj", ".fc2"))
                nn.init.normal_(module.weight, std=deep if is_last else 0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens_BL: Tensor, context_BND: Tensor | None = None) -> Tensor:
        """Return logits [B, L, V] of the token behind each one.

        Args:
            tokens_BL: ids, padded on the right if at all.
            context_BND: what row i of the text looks at; None for text alone.

        Raises:
            ValueError: more tokens than the position table has.
        """
        self._require_room(tokens_BL.shape[1])
        positions = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
        x_BLD = self.dropout(self.token_embed(tokens_BL) + self.pos_embed(positions))
        for block in self.blocks:
            x_BLD = self._run(block, x_BLD, context_BND)
        return self._logits(x_BLD)

    def read(self, tokens_RL: Tensor, cache: KeyValueCache, context_CND: Tensor | None) -> Tensor:
        """Read tokens into a cache; logits [R, V] behind the last one.

        Args:
            tokens_RL: ids.
            cache: what was read before; it is changed.
            context_CND: what the rows look at, the same in every call.

        Raises:
            ValueError: more tokens than the position table has.
        """
        self._require_room(cache.length + tokens_RL.shape[1])
        x_RLD = self.token_embed(tokens_RL) + self.pos_embed(cache.begin(tokens_RL))
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x_RLD = block(x_RLD, context_CND, layer, cache.rows)
        return self._logits(x_RLD[:, -1])

    def example_inputs(self) -> tuple[Tensor]:
        """Return the input of one text in full size, on the present default device."""
        return (torch.zeros(1, min(77, self.config.context_length), dtype=torch.long),)

    def _run(self, block: nn.Module, x_BLD: Tensor, context_BND: Tensor | None) -> Tensor:
        if self.config.gradient_checkpointing and self.training:
            out = checkpoint(block, x_BLD, context_BND, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x_BLD, context_BND)

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.token_embed.weight)

    def _require_room(self, length: int) -> None:
        most = self.config.context_length
        if length > most:
            raise ValueError(
                f"{length} tokens do not fit this decoder's {most} positions: "
                "lower max_new_tokens or the tokenizer's context_length"
            )

    def writer(self) -> Writer:
        """The language model alone as generation wants it."""
        return Writer(self.read, self.config.depth)


@dataclass(frozen=True)
class Writer:
    """`Decoder` of generation: a prompt for each clip, if there are clips, any rows behind it."""

    read: Callable[[Tensor, KeyValueCache, Tensor | None], Tensor]
    """`GPT2.read`, or of the model around it."""
    depth: int
    clips: Tensor | None = None
    """[C, N, D] of a prompt each; None where there is nothing to look at."""

    def start(
        self, tokens_BL: Tensor, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Read a prompt for each clip."""
        rows = None
        if self.clips is not None:
            own = torch.arange(len(tokens_BL), device=tokens_BL.device)
            rows = RowsOfClips(own, len(self.clips))
        cache = KeyValueCache(self.depth, rows, mask_BL)
        return self.read(tokens_BL, cache, self.clips), cache

    def advance(self, tokens_R: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Read one more token of each row."""
        return self.read(tokens_R[:, None], state, self.clips), state
