"""The captioner: clips and a prompt that names them, to text (Egoinstructor spec 2.1).

Letters: B prompts, L words, T clips of a prompt, F frames of a clip, C channels, H W pixels,
N patches of a frame, K latents of a clip, M width of latents, D width of words, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from egovl.models.captioner.configs import CaptionerConfig
from egovl.models.captioner.media_attention import GatedMediaAttention, MediaKeys
from egovl.models.captioner.mpt import (
    BlockNorm,
    KeyValues,
    MPTBlock,
    MPTEmbedding,
    attention_bias,
    reset_block,
)
from egovl.models.captioner.resampler import Resampler
from egovl.models.captioner.vision import FrameEncoder


class CaptionerLayer(nn.Module):
    """A decoder layer, in front of it the look at the clips where it has one."""

    forward_methods = ("make_keys",)

    def __init__(self, config: CaptionerConfig, has_media: bool) -> None:
        super().__init__()
        self.media = (
            GatedMediaAttention(
                config.decoder.width, config.vision.width, config.media, config.gate_init
            )
            if has_media
            else None
        )
        self.decoder = MPTBlock(config.decoder)
        reset_block(self.decoder, config.decoder.depth)

    def make_keys(self, media_BTKM: Tensor) -> MediaKeys | None:
        """Keys and values of the clips; None for a layer that does not look at them."""
        return None if self.media is None else self.media.make_keys(media_BTKM)

    def forward(
        self,
        x_BLD: Tensor,
        media: MediaKeys | None,
        clip_BL: Tensor,
        bias: Tensor,
        past: KeyValues | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """Return [B, L, D] and the keys and values of all words so far."""
        if self.media is not None and media is not None:
            x_BLD = self.media(x_BLD, media, clip_BL)
        return self.decoder(x_BLD, bias, past)


class Captioner(nn.Module):
    """Frame encoder, resampler, decoder with gated cross-attention, and a head tied to tokens."""

    # besides forward, what computes with the parameters when called (sharded models must know)
    forward_methods = ("encode_clips", "read_words", "logits")

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        decoder, every = config.decoder, config.media.every
        self.vision = FrameEncoder(config.vision)
        self.resampler = Resampler(config.vision.width, config.resampler)
        self.embed = MPTEmbedding(decoder)
        self.layers = nn.ModuleList(
            CaptionerLayer(config, (i + 1) % every == 0) for i in range(decoder.depth)
        )
        norm = BlockNorm if decoder.low_precision_norm else nn.LayerNorm
        self.norm = norm(decoder.width, bias=decoder.bias)
        nn.init.kaiming_normal_(self.embed.tokens.weight)
        self._freeze()

    def _freeze(self) -> None:
        if self.config.train_all:
            return
        for name, param in self.named_parameters():
            param.requires_grad_(is_trained(name))
            if self.config.frozen_bf16 and not is_trained(name):
                param.data = param.data.bfloat16()

    @property
    def vision_is_frozen(self) -> bool:
        """Whether frames are encoded without a gradient."""
        return not self.config.train_all

    def forward(
        self,
        video_BTFCHW: Tensor,
        tokens_BL: Tensor,
        token_mask_BL: Tensor,
        is_media_BL: Tensor,
    ) -> Tensor:
        """Return logits [B, L, V].

        Args:
            video_BTFCHW: normalised pixels, clips in the order of the prompt.
            tokens_BL: prompts.
            token_mask_BL: False at padding; on the right in training.
            is_media_BL: True at the tokens that stand for a clip.

        Raises:
            ValueError: training with padding on the left, frames of another size.
        """
        mask = token_mask_BL.bool()
        if self.training and not mask.is_meta and not bool(mask[:, 0].all()):
            raise ValueError("training prompts are padded on the left; pad them on the right")
        media_BTKM = self.encode_clips(video_BTFCHW)
        keys = self.make_keys(media_BTKM)
        clip_BL = is_media_BL.long().cumsum(dim=1)
        hidden, _ = self.read_words(tokens_BL, mask, clip_BL, keys)
        return self.logits(hidden)

    def logits(self, hidden_BLD: Tensor) -> Tensor:
        """Return logits [B, L, V] of hidden states."""
        return self.embed.logits(hidden_BLD)

    @staticmethod
    def is_decayed(name: str, param: nn.Parameter) -> bool:
        """Whether a parameter decays: see the function of that name."""
        return is_decayed(name, param)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs of one clip and a short prompt, on the present default device."""
        size, frames = self.config.vision.image_size, self.config.resampler.max_frames or 1
        tokens = torch.zeros(1, 64, dtype=torch.long)
        video = torch.empty(1, 1, frames, 3, size, size)
        return video, tokens, torch.ones_like(tokens).bool(), torch.ones_like(tokens).bool()

    def encode_clips(self, video_BTFCHW: Tensor) -> Tensor:
        """Return the latents [B, T, K, M] of clips."""
        clips = video_BTFCHW.shape[:2]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.vision_is_frozen):
            tokens_FND = self.encode_frames(video_BTFCHW)
        tokens = tokens_FND.unflatten(0, (-1, video_BTFCHW.shape[2]))
        return self.resampler(tokens).unflatten(0, clips)

    def encode_frames(self, video_BTFCHW: Tensor) -> Tensor:
        """Return the patch tokens [B * T * F, N, M] of all frames."""
        frames = video_BTFCHW.flatten(0, 2).to(self.vision.cls_token.dtype)
        return self.vision(frames).to(video_BTFCHW.dtype)

    def make_keys(self, media_BTKM: Tensor) -> list[MediaKeys | None]:
        """Keys and values of the clips for every layer."""
        return [cast(CaptionerLayer, layer).make_keys(media_BTKM) for layer in self.layers]

    def read_words(
        self,
        tokens_BL: Tensor,
        visible_BS: Tensor,
        clip_BL: Tensor,
        media: list[MediaKeys | None],
        past: list[KeyValues] | None = None,
        inputs: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[KeyValues]]:
        """Run the decoder over the next words.

        Args:
            tokens_BL: the words.
            visible_BS: False at padding, over all words so far and these.
            clip_BL: number of media tokens up to each of these words, itself included.
            media: from `make_keys`.
            past: keys and values of the words so far; None: these are the first.
            inputs: gets the input [B, L, D] of every layer, if given.

        Returns:
            Hidden states [B, L, D] after the last norm, keys and values of all words.
        """
        bias = attention_bias(self.config.decoder, visible_BS, tokens_BL.shape[1])
        x_BLD = self.embed(tokens_BL, visible_BS)
        present: list[KeyValues] = []
        for i, layer in enumerate(self.layers):
            if inputs is not None:
                inputs.append(x_BLD)
            old = None if past is None else past[i]
            if self.config.gradient_checkpointing and self.training:
                out = checkpoint(layer, x_BLD, media[i], clip_BL, bias, use_reentrant=False)
                x_BLD, kept = cast("tuple[Tensor, KeyValues]", out)
            else:
                x_BLD, kept = layer(x_BLD, media[i], clip_BL, bias, old)
            present.append(kept)
        return self.norm(x_BLD), present


def is_trained(name: str) -> bool:
    """Whether a parameter learns in the published recipe: resampler, media layers, token table."""
    return name.startswith("resampler.") or ".media." in name or name.startswith("embed.tokens.")


def is_decayed(name: str, param: nn.Parameter) -> bool:
    """Published weight decay: matrices of the media layers (Egoinstructor spec 5).

    And the norm weight of their feed-forward, which the rule on names misses.
    """
    spared = ("ff_gate", "attn_gate", "norm", "bias")
    return ".media." in name and not any(part in name for part in spared)
