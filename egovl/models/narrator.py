"""Narrator: a clip in, a sentence about it out (LaViLa spec 2.6).

Letters: B clips, C channels, T frames, H W pixels, N tokens of the tower, Q pooled tokens, D width
of the decoder, L tokens of a text, R rows being written, V vocabulary.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from egovl.models.decoder_configs import NarratorConfig
from egovl.models.hf_decoder import Writer
from egovl.models.layers.attention_pooler import AttentionPooler
from egovl.models.layers.key_value_cache import KeyValueCache

_TIME = re.compile(r"temporal_embed|.*\.(attn_time|norm_time)\..*|.*\.time_gate")


class Narrator(nn.Module):
    """A video tower, an attention pooler, and a decoder that looks at the pooled tokens."""

    # besides forward, what computes with the parameters when called (sharded models must know)
    forward_methods = ("encode_video", "decode", "read")

    def __init__(self, config: NarratorConfig) -> None:
        super().__init__()
        self.config = config
        self.video = config.video.build()
        self.decoder = config.decoder.build()
        width, sizes = self.decoder.width, config.pooler
        self.queries = nn.Parameter(torch.randn(sizes.queries, width) * width**-0.5)
        self.pooler = AttentionPooler(
            width,
            self.video.width,
            sizes.heads,
            sizes.head_width,
            norm_context=sizes.norm_context,
            parallel_mlp=sizes.parallel_mlp,
        )
        self.pooler_norm = nn.LayerNorm(width, bias=False)
        if config.freeze_video:
            for name, parameter in self.video.named_parameters():
                parameter.requires_grad = config.train_time and bool(_TIME.fullmatch(name))

    def forward(self, video_BCTHW: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return logits [B, L, V] of the token behind each one.

        Args:
            video_BCTHW: normalised pixels.
            tokens_BL: ids of each clip's text, padded on the right.
        """
        return self.decode(self.encode_video(video_BCTHW), tokens_BL)

    def example_inputs(self) -> tuple[Tensor, Tensor]:
        """Return inputs of one clip in full size, on the present default device."""
        video = self.config.video
        pixels = torch.empty(1, 3, video.num_frames, video.image_size, video.image_size)
        return pixels, torch.zeros(1, min(77, self.config.decoder.context_length), dtype=torch.long)

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        """Return the tokens [B, Q, D] that the decoder looks at."""
        tokens_BNC = self.video.forward_tokens(video_BCTHW)
        queries = self.queries.expand(len(tokens_BNC), -1, -1)
        return self.pooler_norm(self.pooler(queries, tokens_BNC))

    def decode(self, clips_BQD: Tensor | None, tokens_BL: Tensor) -> Tensor:
        """Return logits [B, L, V]; without clips those of the language model alone."""
        return self.decoder(tokens_BL, clips_BQD)

    def read(self, tokens_RL: Tensor, cache: KeyValueCache, clips_BQD: Tensor | None) -> Tensor:
        """Read tokens into a cache; logits [R, V] behind the last one."""
        return self.decoder.read(tokens_RL, cache, clips_BQD)

    def writer(self, clips_BQD: Tensor) -> Writer:
        """The decoder as generation wants it, looking at these clips."""
        return Writer(self.read, self.config.decoder.depth, clips_BQD)
