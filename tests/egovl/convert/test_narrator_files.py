"""LaViLa's narrators in full size: names and shapes as the paper's files have them (spec 2.6, 2.8).

They stand here by hand, not as our code would make them.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from egovl.convert import narrator as convert
from egovl.convert.load import match_published
from egovl.convert.narrator import load_decoder
from egovl.convert.own import load_narrator
from egovl.convert.unpickle import CheckpointError
from egovl.models.configs import VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, PoolerConfig
from tests.egovl.convert.test_full_size import (
    TOWERS,
    Shapes,
    assert_round_trip,
    norm,
    random_state,
    tower,
)

# decoder width, layers, heads; every k-th layer looks
NARRATORS = {
    "TIMESFORMER_BASE_GPT2": ("BASE", 768, 12, 12, 1),
    "TIMESFORMER_BASE_GPT2_XL": ("BASE", 1600, 48, 25, 2),
    "TIMESFORMER_LARGE_GPT2": ("LARGE", 768, 12, 12, 1),
    "TIMESFORMER_LARGE_GPT2_XL": ("LARGE", 1600, 48, 25, 2),
    "TIMESFORMER_LARGE_336PX_GPT2_XL": ("336PX", 1600, 48, 25, 3),
}


def conv(name: str, into: int, out: int) -> Shapes:
    """GPT-2's linear layer: weights as (in, out)."""
    return {f"{name}.weight": (into, out), f"{name}.bias": (out,)}


def constants(name: str) -> Shapes:
    return {f"{name}.bias": (1, 1, 1024, 1024), f"{name}.masked_bias": ()}


def decoder(width: int, layers: int, every: int) -> Shapes:
    shapes: Shapes = {"wte.weight": (50257, width), "wpe.weight": (1024, width)}
    shapes |= norm("ln_f", width)
    for i in range(layers):
        block = f"h.{i}"
        shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        shapes |= conv(f"{block}.attn.c_attn", width, 3 * width) | constants(f"{block}.attn")
        shapes |= conv(f"{block}.attn.c_proj", width, width)
        shapes |= conv(f"{block}.mlp.c_fc", width, 4 * width)
        shapes |= conv(f"{block}.mlp.c_proj", 4 * width, width)
        if i % every == 0:
            cross = f"{block}.crossattention"
            shapes |= conv(f"{cross}.q_attn", width, width) | constants(cross)
            shapes |= conv(f"{cross}.c_attn", width, 2 * width)
            shapes |= conv(f"{cross}.c_proj", width, width)
            shapes |= norm(f"{block}.ln_cross_attn", width)
            shapes |= norm(f"{block}.ln_2_crossattention", width)
            shapes |= conv(f"{block}.mlp_crossattention.c_fc", width, 4 * width)
            shapes |= conv(f"{block}.mlp_crossattention.c_proj", 4 * width, width)
            shapes |= {f"{block}.alpha_cattn": (), f"{block}.alpha_dense": ()}
    return {f"text_decoder.transformer.{name}": shape for name, shape in shapes.items()}


def narrator_shapes(name: str) -> Shapes:
    size, width, layers, heads, every = NARRATORS[name]
    vision = TOWERS[size][0]
    return {
        **tower(size, frames=4),
        **decoder(width, layers, every),
        "text_decoder.lm_head.weight": (50257, width),
        "img_queries": (256, width),
        "img_attn_pool.norm.gamma": (width,),
        "img_attn_pool.norm.beta": (width,),
        "img_attn_pool.context_norm.gamma": (vision,),
        "img_attn_pool.context_norm.beta": (vision,),
        "img_attn_pool.to_q.weight": (64 * heads, width),
        "img_attn_pool.to_kv.weight": (128, vision),
        "img_attn_pool.to_out.weight": (width, 64 * heads),
        "img_attn_pool_norm.gamma": (width,),
        "img_attn_pool_norm.beta": (width,),
    }


@pytest.mark.slow
def test_a_full_size_narrator_comes_back_key_for_key(tmp_path: Path) -> None:
    shapes = narrator_shapes("TIMESFORMER_BASE_GPT2")
    state = random_state(shapes)
    # what the published model holds besides weights
    state["module.text_decoder.lm_head.weight"] = state[
        "module.text_decoder.transformer.wte.weight"
    ]
    below = torch.ones(1024, 1024, dtype=torch.uint8).tril().view(1, 1, 1024, 1024)
    for name in shapes:
        if name.endswith((".attn.bias", ".crossattention.bias")):
            state[f"module.{name}"] = below
        elif name.endswith(".masked_bias"):
            state[f"module.{name}"] = torch.tensor(-1e4)
        elif name.endswith(".beta"):
            state[f"module.{name}"] = torch.zeros(shapes[name])
    arguments = Namespace(model="VCLM_OPENAI_TIMESFORMER_BASE_GPT2", gated_xattn=True)
    assert_round_trip(tmp_path, "lavila", state, arguments)


@pytest.mark.parametrize("name", NARRATORS)
def test_every_full_size_has_our_names_and_shapes(name: str) -> None:
    shapes = narrator_shapes(name)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config = convert.narrator_config(state)
    with torch.device("meta"):
        own = config.build().state_dict()
    keys = convert.keys_of(config)
    _, report = match_published(own, state, keys, convert.tolerated_of(config))
    assert report.matched == len(own)
    assert report.matched + len(report.dropped) == len(shapes)
    published = convert.publish(config, own)
    assert {key: tuple(tensor.shape) for key, tensor in published.items()} == shapes


TINY = NarratorConfig(
    video=VideoTowerConfig(image_size=16, patch_size=8, width=64, depth=1, heads=1, num_frames=2),
    pooler=PoolerConfig(queries=4, heads=2, head_width=64),
    decoder=GPT2Config(vocab_size=40, context_length=16, width=64, depth=2, heads=1, cross_every=2),
)


def test_a_hugging_face_folder_fills_the_decoder_and_leaves_what_looks(tmp_path: Path) -> None:
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel(
        HFConfig(vocab_size=40, n_positions=16, n_embd=64, n_layer=2, n_head=1)
    ).eval()
    theirs.save_pretrained(tmp_path)
    model = TINY.build().eval()
    report = load_decoder(model.decoder, tmp_path)
    assert {name.split(".")[2] for name in report.missing} == {"cross"}
    tokens = torch.randint(0, 40, (2, 9))
    torch.testing.assert_close(model.decode(None, tokens), theirs(tokens).logits)
    # gates of 0: a fresh narrator speaks as its language model
    seen = model(torch.randn(2, 3, 2, 16, 16), tokens)
    torch.testing.assert_close(seen, theirs(tokens).logits)


def test_a_folder_without_weights_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="download gpt2"):
        load_decoder(TINY.build().decoder, tmp_path)
    save_file({"wte.weight": torch.zeros(40, 64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks"):
        load_decoder(TINY.build().decoder, tmp_path)


def test_a_dual_encoder_of_ours_fills_the_tower_alone() -> None:
    from egovl.models.configs import DualEncoderConfig, TextTowerConfig

    text = TextTowerConfig(vocab_size=40, context_length=8, width=32, heads=2, depth=1)
    dual = DualEncoderConfig(video=TINY.video, text=text, embed_dim=16).build()
    model = TINY.build()
    before = model.queries.detach().clone()
    load_narrator(model, dual.state_dict())
    for name, tensor in dual.video.state_dict().items():
        assert torch.equal(model.video.state_dict()[name], tensor)
    assert torch.equal(model.queries, before)
    assert not any(p.requires_grad for p in model.video.parameters())


def test_what_acts_in_time_can_train_in_a_frozen_tower() -> None:
    from dataclasses import replace

    model = replace(TINY, train_time=True).build()
    trained = {name for name, p in model.video.named_parameters() if p.requires_grad}
    assert "temporal_embed" in trained
    assert all("time" in name or name == "temporal_embed" for name in trained)
