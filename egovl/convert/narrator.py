"""LaViLa's narrators, and GPT-2 as Hugging Face stores it (LaViLa spec 2.6, 2.8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.convert import clip
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, load_published
from egovl.convert.space_time import SPACE_TIME_KEYS, count_blocks, tower_config
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.models.configs import ImageTowerConfig, VideoConfig
from egovl.models.decoder_configs import (
    GPT2_BASE,
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_XL,
    GPT2Config,
    NarratorConfig,
    PoolerConfig,
)
from egovl.models.hf_decoder import GPT2
from egovl.models.narrator import Narrator

POSITIONS_KEY, TEMPORAL_KEY = "visual.pos_embed", "visual.temporal_embed"

_MASKED_SCORE = -1e4
_GPT2_HEAD_WIDTH = 64  # of every GPT-2, base to XL
_BLOCK = "h.{i}."


def _linear(published: str, ours: str) -> list[Rename]:
    """GPT-2 stores its matrices as (in, out)."""
    return [
        Rename(f"{_BLOCK}{published}.weight", f"blocks.{{i}}.{ours}.weight", "transpose"),
        Rename(f"{_BLOCK}{published}.bias", f"blocks.{{i}}.{ours}.bias"),
    ]


def _norm(published: str, ours: str) -> Rename:
    return Rename(f"{_BLOCK}{published}.{{leaf}}", f"blocks.{{i}}.{ours}.{{leaf}}")


GPT2_KEYS = KeyMap(
    [
        Rename("wte.weight", "token_embed.weight"),
        Rename("wpe.weight", "pos_embed.weight"),
        Rename("ln_f.{leaf}", "norm.{leaf}"),
        _norm("ln_1", "norm_attn"),
        _norm("ln_2", "norm_mlp"),
        _norm("ln_cross_attn", "cross.norm_attn"),
        _norm("ln_2_crossattention", "cross.norm_mlp"),
        *_linear("attn.c_attn", "attn.qkv"),
        *_linear("attn.c_proj", "attn.proj"),
        *_linear("mlp.c_fc", "mlp.fc1"),
        *_linear("mlp.c_proj", "mlp.fc2"),
        *_linear("crossattention.q_attn", "cross.attn.q"),
        *_linear("crossattention.c_attn", "cross.attn.kv"),
        *_linear("crossattention.c_proj", "cross.attn.proj"),
        *_linear("mlp_crossattention.c_fc", "cross.mlp.fc1"),
        *_linear("mlp_crossattention.c_proj", "cross.mlp.fc2"),
        Rename("h.{i}.alpha_cattn", "blocks.{i}.cross.gate_attn.gate", "scalar"),
        Rename("h.{i}.alpha_dense", "blocks.{i}.cross.gate_mlp.gate", "scalar"),
    ]
)

POOLER_KEYS = KeyMap(
    [
        Rename("norm.gamma", "norm.weight"),
        Rename("context_norm.gamma", "norm_context.weight"),
        Rename("to_q.weight", "q.weight"),
        Rename("to_kv.weight", "kv.weight"),
        Rename("to_out.weight", "proj.weight"),
        Rename("ff.0.weight", "mlp.fc1.weight"),
        Rename("ff.2.weight", "mlp.fc2.weight"),
    ]
)

_OUTER_KEYS = (
    KeyMap(
        [
            Rename("img_queries", "queries"),
            Rename("img_attn_pool_norm.gamma", "pooler_norm.weight"),
        ]
    )
    + POOLER_KEYS.prefixed("img_attn_pool.", "pooler.")
    + GPT2_KEYS.prefixed("text_decoder.transformer.", "decoder.")
)

CONSTANTS = (
    r".*\.masked_bias",
    r".*\.(attn|crossattention)\.bias",
    r"(.*\.)?(norm|context_norm|img_attn_pool_norm)\.beta",
    r"(text_decoder\.)?lm_head\.weight",
)
"""Constant buffers, and the output matrix, which is the embedding's again."""

_TEXT_ALONE = (r"(.*\.)?blocks\.\d+\.cross\..*",)
"""Our names that a language model alone cannot fill."""


def keys_of(config: NarratorConfig) -> KeyMap:
    """LaViLa's names of a narrator."""
    by_frame = isinstance(config.video, ImageTowerConfig)
    tower = clip.FRAME_KEYS if by_frame else SPACE_TIME_KEYS.prefixed("visual.", "")
    return tower.prefixed("", "video.") + _OUTER_KEYS


def tolerated_of(config: NarratorConfig) -> Tolerated:
    """Exceptions to strict loading: constants, and the unused end of a per-frame CLIP tower."""
    by_frame = isinstance(config.video, ImageTowerConfig)
    unused = (r"visual\.proj", r"visual\.ln_post\..*") if by_frame else ()
    return Tolerated(
        missing=(r"video\.norm\..*",) if by_frame else (), dropped=(*CONSTANTS, *unused)
    )


def load_state(model: Narrator, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a narrator from a published state dict, strictly.

    A dual encoder's file fills the tower alone, as the published training starts.
    """
    if not any(key.startswith("text_decoder.") for key in state):
        return load_tower(model, state)
    return load_published(model, state, keys_of(model.config), tolerated_of(model.config))


def load_tower(model: Narrator, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a narrator's tower from a dual encoder of LaViLa."""
    visual = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    rest = tuple(key for key in state if key not in visual)
    by_frame = isinstance(model.config.video, ImageTowerConfig)
    keys = clip.FRAME_KEYS if by_frame else SPACE_TIME_KEYS.prefixed("visual.", "")
    report = load_published(model.video, visual, keys, Tolerated(dropped=(r"visual\.proj",)))
    return LoadReport(report.matched, report.missing, rest, report.dropped)


def load_decoder(decoder: GPT2, source: Path) -> LoadReport:
    """Fill a decoder from a Hugging Face folder of GPT-2; what looks at clips keeps its init.

    Raises:
        FileNotFoundError: the folder has no weights.
        CheckpointError: they are another model's, or of other sizes.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    file = next((source / name for name in names if (source / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{source} holds neither {' nor '.join(names)}: download gpt2 there (or gpt2-large, "
            "gpt2-xl, as decoder.width says), or set init.text=null"
        )
    state = load_checkpoint(file).state
    bare = {re.sub(r"^transformer\.", "", key): tensor for key, tensor in state.items()}
    return load_published(decoder, bare, GPT2_KEYS, Tolerated(_TEXT_ALONE, CONSTANTS))


def load_own_decoder(decoder: GPT2, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a decoder from a language model, or a narrator, that egovl trained."""
    prefix = "decoder." if any(key.startswith("decoder.") for key in state) else ""
    same = KeyMap([Rename(prefix + "{rest}", "{rest}")])
    others = () if not prefix else (r"(?!decoder\.).*",)
    return load_published(decoder, state, same, Tolerated(_TEXT_ALONE, others))


def narrator_config(
    state: Mapping[str, Tensor], *, pool_head_width: int = 64, decoder_heads: int | None = None
) -> NarratorConfig:
    """Sizes of a released narrator, read off its tensors.

    Args:
        state: published tensors.
        pool_head_width: of the pooler; no tensor tells it apart from the number of heads.
        decoder_heads: of the decoder; None as GPT-2 has them, heads of 64.

    Raises:
        CheckpointError: the file holds no narrator.
    """
    prefix = "text_decoder.transformer."
    words, queries = state.get(f"{prefix}wte.weight"), state.get("img_queries")
    if words is None or queries is None:
        raise CheckpointError("not a LaViLa narrator: it has no img_queries or no text_decoder")
    width, depth = words.shape[1], count_blocks(state, f"{prefix}h.")
    crossing = [i for i in range(depth) if f"{prefix}h.{i}.ln_cross_attn.weight" in state]
    decoder = GPT2Config(
        vocab_size=words.shape[0],
        context_length=state[f"{prefix}wpe.weight"].shape[0],
        width=width,
        depth=depth,
        heads=decoder_heads or max(width // _GPT2_HEAD_WIDTH, 1),
        cross_every=crossing[1] if len(crossing) > 1 else depth,
        gated=f"{prefix}h.0.alpha_cattn" in state,
        frozen=True,
    )
    mlp = state.get("img_attn_pool.ff.2.weight")
    pooler = PoolerConfig(
        queries=queries.shape[0],
        heads=state["img_attn_pool.to_q.weight"].shape[0] // pool_head_width,
        head_width=pool_head_width,
        norm_context="img_attn_pool.context_norm.gamma" in state,
        parallel_mlp=0 if mlp is None else mlp.shape[1] // width,
    )
    return NarratorConfig(video=_video_config(state), pooler=pooler, decoder=decoder)


def _video_config(state: Mapping[str, Tensor]) -> VideoConfig:
    if "visual.class_embedding" in state:
        return clip.frame_tower_config(state)
    return tower_config(state, "visual.")


def publish(config: NarratorConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under LaViLa's names, with the constant buffers that its strict loading wants."""
    state = keys_of(config).publish(weights)
    state |= constants(config)
    state["text_decoder.lm_head.weight"] = state["text_decoder.transformer.wte.weight"]
    return state


def constants(config: NarratorConfig) -> dict[str, Tensor]:
    """The constant buffers of the published model."""
    decoder, pooler = config.decoder, config.pooler
    length = decoder.context_length
    below = torch.ones(length, length, dtype=torch.uint8).tril().view(1, 1, length, length)
    width = decoder.width
    found = {f"img_attn_pool{name}.beta": torch.zeros(width) for name in (".norm", "_norm")}
    if pooler.norm_context:
        found["img_attn_pool.context_norm.beta"] = torch.zeros(config.video.width)
    for layer in range(decoder.depth):
        for attention in ("attn", "crossattention")[: 1 + decoder.attends_at(layer)]:
            name = f"text_decoder.transformer.h.{layer}.{attention}"
            found[f"{name}.bias"] = below
            found[f"{name}.masked_bias"] = torch.tensor(_MASKED_SCORE)
    return found


_DECODERS = {
    "GPT2": GPT2_BASE,
    "GPT2_MEDIUM": GPT2_MEDIUM,
    "GPT2_LARGE": GPT2_LARGE,
    "GPT2_XL": GPT2_XL,
}


def decoder_name(config: GPT2Config) -> str | None:
    """How LaViLa's factories spell this decoder; None where it is of another size."""
    sizes = (config.width, config.depth)
    found = (name for name, known in _DECODERS.items() if (known.width, known.depth) == sizes)
    return next(found, None)


def published_args(config: NarratorConfig) -> dict[str, Any]:
    """What LaViLa's evaluation of a narrator reads beside the weights."""
    return {
        "gated_xattn": config.decoder.gated,
        "freeze_lm_vclm": config.decoder.frozen,
        "freeze_visual_vclm": config.freeze_video,
        "freeze_visual_vclm_temporal": config.freeze_video and not config.train_time,
        "project_embed_dim": 256,
        "timesformer_freeze_space": False,
    }
