"""Egoinstructor's captioner: the Otter base model and the trained part laid over it (spec 2.2)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, match_published
from egovl.convert.space_time import count_blocks
from egovl.convert.unpickle import CheckpointError, strip_module
from egovl.models.captioner.captioner import Captioner, is_trained
from egovl.models.captioner.configs import (
    CaptionerConfig,
    FrameEncoderConfig,
    MediaAttentionConfig,
    MPTConfig,
    ResamplerConfig,
)

logger = logging.getLogger(__name__)

_VISION = KeyMap(
    [
        Rename("embeddings.class_embedding", "cls_token"),
        Rename("embeddings.patch_embedding.weight", "patch_embed.weight"),
        Rename("embeddings.position_embedding.weight", "pos_embed"),
        Rename("pre_layrnorm.{leaf}", "norm_pre.{leaf}"),
        Rename("post_layernorm.{leaf}", "norm_post.{leaf}"),
        Rename("encoder.layers.{i}.layer_norm1.{leaf}", "blocks.{i}.norm_attn.{leaf}"),
        Rename("encoder.layers.{i}.layer_norm2.{leaf}", "blocks.{i}.norm_mlp.{leaf}"),
        Rename("encoder.layers.{i}.self_attn.qkv_proj.{leaf}", "blocks.{i}.attn.qkv.{leaf}"),
        Rename("encoder.layers.{i}.self_attn.out_proj.{leaf}", "blocks.{i}.attn.proj.{leaf}"),
        Rename("encoder.layers.{i}.mlp.{rest}", "blocks.{i}.mlp.{rest}"),
    ]
)
_LAYER = KeyMap(
    [
        Rename("gated_cross_attn_layer.attn_gate", "media.attn_gate.gate"),
        Rename("gated_cross_attn_layer.ff_gate", "media.ff_gate.gate"),
        Rename("gated_cross_attn_layer.attn.norm.{leaf}", "media.attn.norm.{leaf}"),
        Rename("gated_cross_attn_layer.attn.to_q.weight", "media.attn.cross.q.weight"),
        Rename("gated_cross_attn_layer.attn.to_kv.weight", "media.attn.cross.kv.weight"),
        Rename("gated_cross_attn_layer.attn.to_out.weight", "media.attn.cross.proj.weight"),
        Rename("gated_cross_attn_layer.feed_forward.{rest}", "media.feed_forward.{rest}"),
        Rename("decoder_layer.ln_1.{leaf}", "decoder.norm_attn.{leaf}"),
        Rename("decoder_layer.ln_2.{leaf}", "decoder.norm_mlp.{leaf}"),
        Rename("decoder_layer.attn.Wqkv.{leaf}", "decoder.attn.qkv.{leaf}"),
        Rename("decoder_layer.attn.q_ln.{leaf}", "decoder.attn.q_norm.{leaf}"),
        Rename("decoder_layer.attn.k_ln.{leaf}", "decoder.attn.k_norm.{leaf}"),
        Rename("decoder_layer.attn.out_proj.{leaf}", "decoder.attn.proj.{leaf}"),
        Rename("decoder_layer.mlp.{rest}", "decoder.{rest}"),
    ]
)
CAPTIONER_KEYS = (
    _VISION.prefixed("vision_encoder.vision_model.", "vision.")
    + KeyMap(
        [
            Rename("perceiver.frame_embs", "resampler.frame_embed"),
            Rename("perceiver.layers.{i}.{rest}", "resampler.blocks.{i}.{rest}"),
            Rename("perceiver.{rest}", "resampler.{rest}"),
        ]
    )
    + _LAYER.prefixed("lang_encoder.transformer.blocks.{i}.", "layers.{i}.")
    + KeyMap(
        [
            Rename("lang_encoder.transformer.wte.weight", "embed.tokens.weight"),
            Rename("lang_encoder.transformer.wpe.weight", "embed.positions.weight"),
            Rename("lang_encoder.transformer.ln_f.{leaf}", "norm.{leaf}"),
        ]
    )
)
"""Names of the published model, the three matrices of CLIP's attention joined (`join_qkv`)."""

SAME_NAMES = KeyMap([Rename("{rest}", "{rest}")])

TOKENS = "lang_encoder.transformer.wte.weight"
_POSITION_IDS = r"vision_encoder\.vision_model\.embeddings\.position_ids"
_FRAME_EMBED = "resampler.frame_embed"
_QKV = re.compile(r"(.*\.self_attn)\.([qkv])_proj\.(weight|bias)")
_JOINED = re.compile(r"(.*\.self_attn)\.qkv_proj\.(weight|bias)")


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's projections of queries, keys and values as one matrix, in this order."""
    joined: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := _QKV.fullmatch(name):
            parts.setdefault(f"{match[1]}.qkv_proj.{match[3]}", {})[match[2]] = tensor
        else:
            joined[name] = tensor
    for name, found in parts.items():
        if len(found) < len("qkv"):
            raise CheckpointError(f"{name}: the checkpoint has only {sorted(found)} of q, k, v")
        joined[name] = torch.cat([found[part] for part in "qkv"])
    return joined


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `join_qkv`."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _JOINED.fullmatch(name)
        if match is None:
            split[name] = tensor
            continue
        for part, third in zip("qkv", tensor.chunk(3), strict=True):
            split[f"{match[1]}.{part}_proj.{match[2]}"] = third
    return split


def publish(tensors: Mapping[str, Tensor], *, trained_only: bool = False) -> dict[str, Tensor]:
    """Tensors under our names as the published model holds them; released files hold the trained.

    The table of tokens is the output head too: no head has a name of its own.
    """
    chosen = {k: v for k, v in tensors.items() if is_trained(k) or not trained_only}
    return split_qkv(CAPTIONER_KEYS.publish(chosen))


def load_captioner(model: Captioner, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a captioner from a base model, or from a trained part laid over it.

    A trained part lacks exactly the frozen weights, which stay as they are. A base model may lack
    the table of frame embeddings: it keeps its random values, with a warning. A token table of
    another height fills the rows that both have.

    Raises:
        CheckpointError: a weight has no place, or others are missing.
    """
    own = model.state_dict()
    keys = {strip_module(key): value for key, value in state.items()}
    state = join_qkv(_with_rows(_with_prefixes(keys), own["embed.tokens.weight"]))
    frozen = {name for name in own if not is_trained(name)}
    overlay = not any(_is_frozen(key) for key in state)
    missing = frozen if overlay else {_FRAME_EMBED}
    tolerated = Tolerated(tuple(map(re.escape, sorted(missing))), (_POSITION_IDS,))
    found, report = match_published(own, state, CAPTIONER_KEYS, tolerated)
    if _FRAME_EMBED in report.missing:
        logger.warning(
            "the checkpoint has no frame embeddings: they stay random until a trained captioner "
            "is loaded over it"
        )
    model.load_state_dict(found, strict=False)
    logger.info("%s", report)
    return report


def load_decoder(model: Captioner, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill the language model alone, from the files of mpt-1b."""
    own = model.state_dict()
    others = (r"vision\..*", r"resampler\..*", r"layers\.\d+\.media\..*")
    keys = _with_rows(_with_prefixes(state), own["embed.tokens.weight"])
    found, report = match_published(own, keys, CAPTIONER_KEYS, Tolerated(missing=others))
    model.load_state_dict(found, strict=False)
    return report


def _is_frozen(published: str) -> bool:
    found = CAPTIONER_KEYS.to_ours(published)
    return found is not None and not is_trained(found[0])


def _with_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a bare language model as those of the captioner around it."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("transformer."):
            name = "lang_encoder." + name
        head, dot, rest = name.partition(".blocks.")
        number, _, inner = rest.partition(".")
        plain = head == "lang_encoder.transformer" and dot
        if plain and not inner.startswith(("decoder_layer.", "gated_cross_attn_layer.")):
            name = f"{head}.blocks.{number}.decoder_layer.{inner}"
        renamed[name] = tensor
    return renamed


def _with_rows(state: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    stored = state.get(TOKENS)
    if stored is None or len(stored) == len(table):
        return dict(state)
    rows = table.detach().clone()
    shared = min(len(stored), len(table))
    rows[:shared] = stored[:shared].to(rows.dtype)
    logger.info("token table: %d rows in the checkpoint, %d here", len(stored), len(table))
    return {**state, TOKENS: rows}


def captioner_config(
    published: Mapping[str, Any], widths: Mapping[str, int] | None = None
) -> CaptionerConfig:
    """Sizes and options of a base ``config.json`` (spec 2.2).

    Args:
        published: the file; what a text_config lacks has MosaicGPT's own default.
        widths: resampler and cross-attention sizes, constants in the published code:
            ``perceiver_depth, perceiver_heads, perceiver_dim_head, num_latents, xattn_heads,
            xattn_dim_head``; None: the released ones.

    Raises:
        CheckpointError: another kind of decoder, or an option that changes it unknown to us.
    """
    sizes = widths or {}
    return CaptionerConfig(
        vision=_vision_config(published["vision_config"]),
        resampler=ResamplerConfig(
            depth=sizes.get("perceiver_depth", 6),
            heads=sizes.get("perceiver_heads", 8),
            head_width=sizes.get("perceiver_dim_head", 64),
            num_latents=sizes.get("num_latents", 64),
            max_frames=published.get("max_num_frames"),
        ),
        decoder=mpt_config(published["text_config"]),
        media=MediaAttentionConfig(
            every=published.get("cross_attn_every_n_layers", 4),
            heads=sizes.get("xattn_heads", 8),
            head_width=sizes.get("xattn_dim_head", 64),
        ),
    )


def _vision_config(vision: Mapping[str, Any]) -> FrameEncoderConfig:
    default = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    values = default | dict(vision)
    return FrameEncoderConfig(
        image_size=values.get("image_size", 224),
        patch_size=values.get("patch_size", 32),
        width=values.get("hidden_size", 768),
        hidden_width=values.get("intermediate_size", 3072),
        depth=values.get("num_hidden_layers", 12),
        heads=values.get("num_attention_heads", 12),
        activation=values["hidden_act"],
        norm_eps=values["layer_norm_eps"],
    )


def mpt_config(text: Mapping[str, Any]) -> MPTConfig:
    """The decoder of a ``text_config``.

    Raises:
        CheckpointError: another kind of decoder.
    """
    kinds = text.get("architectures") or ["MosaicGPT"]
    if not any("Mosaic" in kind or "MPT" in kind for kind in kinds):
        raise CheckpointError(f"text_config.architectures is {kinds}; only MosaicGPT is built")
    for option in ("prefix_lm", "attn_uses_sequence_id"):
        if text.get(option):
            raise CheckpointError(f"text_config.{option} is set; no released model needs it")
    return MPTConfig(
        vocab_size=text.get("vocab_size", 50368),
        width=text.get("d_model", 2048),
        depth=text.get("n_layers", 24),
        heads=text.get("n_heads", 16),
        mlp_ratio=text.get("mlp_ratio", 4),
        context_length=text.get("max_seq_len", 2048),
        alibi=text.get("alibi", False),
        alibi_bias_max=float(text.get("alibi_bias_max", 8)),
        qk_norm=text.get("attn_qk_ln", False),
        bias=not text.get("no_bias", False),
        clip_qkv=text.get("attn_clip_qkv"),
        softmax_scale=text.get("softmax_scale"),
        logit_scale=text.get("logit_scale"),
        embedding_fraction=text.get("embedding_fraction", 1.0),
        low_precision_norm=text.get("low_precision_layernorm", True),
        attention_dropout=text.get("attn_pdrop", 0.0),
        residual_dropout=text.get("resid_pdrop", 0.0),
        embedding_dropout=text.get("emb_pdrop", 0.0),
    )


def config_of_weights(state: Mapping[str, Tensor]) -> CaptionerConfig:
    """Sizes of a released file, whole or trained part; what no tensor tells is as released.

    Raises:
        CheckpointError: the file holds another model.
    """
    state = {strip_module(key): value for key, value in state.items()}
    if TOKENS not in state or "perceiver.latents" not in state:
        raise CheckpointError(f"no captioner of Egoinstructor: it lacks {TOKENS} or perceiver.*")
    rows, width = state[TOKENS].shape
    gates = [int(m[1]) for key in state if (m := re.search(r"blocks\.(\d+)\.gated.*ff_gate", key))]
    if not gates:
        raise CheckpointError("no captioner of Egoinstructor: it has no gated cross-attention")
    depth = count_blocks(state, "lang_encoder.transformer.blocks.")
    every = min(gates) + 1
    frames = state.get("perceiver.frame_embs")
    latents, media_width = state["perceiver.latents"].shape
    released = CaptionerConfig()
    inner = state["perceiver.layers.0.to_q.weight"].shape[0]
    crossed = state[
        f"lang_encoder.transformer.blocks.{min(gates)}.gated_cross_attn_layer.attn.to_q.weight"
    ]
    return replace(
        released,
        vision=replace(released.vision, width=media_width, hidden_width=4 * media_width),
        resampler=replace(
            released.resampler,
            depth=count_blocks(state, "perceiver.layers."),
            head_width=inner // released.resampler.heads,
            num_latents=latents,
            max_frames=None if frames is None else len(frames),
        ),
        decoder=replace(
            released.decoder, vocab_size=rows, width=width, depth=max(depth, max(gates) + 1)
        ),
        media=replace(
            released.media, every=every, head_width=crossed.shape[0] // released.media.heads
        ),
    )
