"""Released layouts of Egoinstructor at full size, and small files in and out.

Names, shapes and counts stand here as its files have them (its spec, 2.1, 2.2, 2.4), not as our
code would make them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovl.__main__ import main
from egovl.convert import egoinstructor, egoinstructor_captioner, egoinstructor_files
from egovl.convert.load import Tolerated, match_published
from egovl.convert.unpickle import CheckpointError
from egovl.models.captioner.configs import (
    CaptionerConfig,
    FrameEncoderConfig,
    MediaAttentionConfig,
    MPTConfig,
    ResamplerConfig,
)
from egovl.models.configs import TextTowerConfig
from egovl.models.view_configs import FeatureTowerConfig, ViewRetrieverConfig

Shapes = dict[str, tuple[int, ...]]

TINY = CaptionerConfig(
    vision=FrameEncoderConfig(28, 14, 32, 128, 1, 16),
    resampler=ResamplerConfig(depth=1, heads=8, head_width=4, num_latents=3, max_frames=2),
    decoder=MPTConfig(vocab_size=340, width=32, depth=2, heads=16, context_length=64),
    media=MediaAttentionConfig(heads=8, head_width=4),
)


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def feed_forward(name: str, width: int) -> Shapes:
    return {
        **norm(f"{name}.0", width),
        f"{name}.1.weight": (4 * width, width),
        f"{name}.3.weight": (width, 4 * width),
    }


def trained_shapes() -> Shapes:
    """The released captioner's file."""
    shapes: Shapes = {
        "lang_encoder.transformer.wte.weight": (50432, 2048),
        "perceiver.latents": (64, 1024),
        "perceiver.frame_embs": (32, 1024),
        **norm("perceiver.norm", 1024),
    }
    for i in range(24):
        layer = f"lang_encoder.transformer.blocks.{i}.gated_cross_attn_layer"
        shapes |= {f"{layer}.attn_gate": (1,), f"{layer}.ff_gate": (1,)}
        shapes |= norm(f"{layer}.attn.norm", 2048)
        shapes[f"{layer}.attn.to_q.weight"] = (512, 2048)
        shapes[f"{layer}.attn.to_kv.weight"] = (1024, 1024)
        shapes[f"{layer}.attn.to_out.weight"] = (2048, 512)
        shapes |= feed_forward(f"{layer}.feed_forward", 2048)
    for i in range(6):
        layer = f"perceiver.layers.{i}"
        shapes |= norm(f"{layer}.norm_media", 1024) | norm(f"{layer}.norm_latents", 1024)
        shapes[f"{layer}.to_q.weight"] = (512, 1024)
        shapes[f"{layer}.to_kv.weight"] = (1024, 1024)
        shapes[f"{layer}.to_out.weight"] = (1024, 512)
        shapes |= feed_forward(f"{layer}.feed_forward", 1024)
    return shapes


def frozen_shapes() -> Shapes:
    """What only the base model has."""
    vision = "vision_encoder.vision_model"
    shapes: Shapes = {
        "lang_encoder.transformer.ln_f.weight": (2048,),
        f"{vision}.embeddings.class_embedding": (1024,),
        f"{vision}.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        f"{vision}.embeddings.position_embedding.weight": (257, 1024),
        **norm(f"{vision}.pre_layrnorm", 1024),
        **norm(f"{vision}.post_layernorm", 1024),
    }
    for i in range(24):
        layer = f"lang_encoder.transformer.blocks.{i}.decoder_layer"
        for name in ("ln_1", "ln_2", "attn.q_ln", "attn.k_ln"):
            shapes[f"{layer}.{name}.weight"] = (2048,)
        shapes[f"{layer}.attn.Wqkv.weight"] = (6144, 2048)
        shapes[f"{layer}.attn.out_proj.weight"] = (2048, 2048)
        shapes[f"{layer}.mlp.mlp_up.weight"] = (8192, 2048)
        shapes[f"{layer}.mlp.mlp_down.weight"] = (2048, 8192)
        layer = f"{vision}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{name}", 1024, 1024)
        shapes |= linear(f"{layer}.mlp.fc1", 4096, 1024) | linear(f"{layer}.mlp.fc2", 1024, 4096)
        shapes |= norm(f"{layer}.layer_norm1", 1024) | norm(f"{layer}.layer_norm2", 1024)
    return shapes


def retriever_shapes() -> Shapes:
    shapes: Shapes = {
        "positional_embedding": (300, 768),
        "aggregation_projection": (768, 768),
        "text_projection": (768, 768),
        "logit_scale": (),
        "token_embedding.weight": (49408, 768),
        **norm("ln_final", 768),
        **norm("visual_ln_final", 768),
    }
    for tower, depth in (("visual", 4), ("transformer", 12)):
        for i in range(depth):
            block = f"{tower}.resblocks.{i}"
            shapes[f"{block}.attn.in_proj_weight"] = (2304, 768)
            shapes[f"{block}.attn.in_proj_bias"] = (2304,)
            shapes |= linear(f"{block}.attn.out_proj", 768, 768)
            shapes |= linear(f"{block}.mlp.c_fc", 3072, 768)
            shapes |= linear(f"{block}.mlp.c_proj", 768, 3072)
            shapes |= norm(f"{block}.ln_1", 768) | norm(f"{block}.ln_2", 768)
    return shapes


def count(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(state: dict[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_the_released_captioner_fits_key_for_key_in_and_out() -> None:
    trained = trained_shapes()
    assert count(trained) == 1_047_337_008
    assert count(trained) + count(frozen_shapes()) == 2_558_674_992
    config = egoinstructor_captioner.config_of_weights(on_meta(trained))
    assert config == CaptionerConfig()
    with torch.device("meta"):
        own = config.build().state_dict()
    assert shapes_of(egoinstructor_captioner.publish(own, trained_only=True)) == trained
    assert shapes_of(egoinstructor_captioner.publish(own)) == trained | frozen_shapes()
    keys = egoinstructor_captioner.CAPTIONER_KEYS
    whole = egoinstructor_captioner.join_qkv(on_meta(trained | frozen_shapes()))
    _, report = match_published(own, whole, keys)
    assert report.matched == len(own)
    frozen = tuple(name for name in own if not egoinstructor_captioner.is_trained(name))
    _, report = match_published(own, on_meta(trained), keys, Tolerated(missing=frozen))
    assert report.matched == len(trained) and set(report.missing) == set(frozen)


def test_the_released_retriever_fits_key_for_key_in_and_out() -> None:
    shapes = retriever_shapes()
    assert (len(shapes), count(shapes)) == (201, 152_764_417)
    config = egoinstructor.retriever_config(on_meta(shapes))
    assert config == ViewRetrieverConfig()
    with torch.device("meta"):
        own = config.build().state_dict()
    keys = egoinstructor.RETRIEVER_KEYS
    _, report = match_published(own, on_meta(shapes), keys)
    assert report.matched == len(own) == len(shapes)
    assert shapes_of(keys.publish(own)) == shapes


def round_trip(folder: Path, released: Path) -> dict[str, Tensor]:
    ours, back = folder / "ours.safetensors", folder / "back.pt"
    into = ["convert", str(released), "--origin", "egoinstructor", "--out", str(ours)]
    assert main(into) == 0
    out = ["convert", str(ours), "--origin", "egovl", "--to", "egoinstructor", "--out", str(back)]
    assert main(out) == 0
    content = torch.load(back, weights_only=True)
    return content.get("state_dict", content)


def test_a_trained_captioner_file_comes_back_unchanged(tmp_path: Path) -> None:
    model = TINY.build()
    state = egoinstructor_captioner.publish(model.state_dict(), trained_only=True)
    torch.save({"epoch": 0, "model_state_dict": state}, tmp_path / "released.pt")
    back = round_trip(tmp_path, tmp_path / "released.pt")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_retriever_file_comes_back_unchanged(tmp_path: Path) -> None:
    config = ViewRetrieverConfig(
        video=FeatureTowerConfig(feature_width=16, depth=1, heads=8),
        text=TextTowerConfig(vocab_size=30, context_length=9, width=16, heads=8, depth=1),
        embed_dim=8,
    )
    state = egoinstructor.RETRIEVER_KEYS.publish(config.build().state_dict())
    wrapped = {f"module.{name}": tensor.clone() for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "best_acc1": 1.0}, tmp_path / "released.pt")
    back = round_trip(tmp_path, tmp_path / "released.pt")
    assert back.keys() == wrapped.keys()
    assert all(torch.equal(back[name], wrapped[name]) for name in wrapped)


def test_a_trained_part_laid_over_a_base_folder_gives_the_whole_model(tmp_path: Path) -> None:
    source, target = TINY.build(), TINY.build()
    whole = egoinstructor_captioner.publish(source.state_dict())
    base = {name: tensor for name, tensor in whole.items() if name != "perceiver.frame_embs"}
    names = sorted(base)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]}
    for part, chosen in parts.items():
        torch.save({name: base[name].clone() for name in chosen}, tmp_path / part)
    places = {name: part for part, chosen in parts.items() for name in chosen}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    report = egoinstructor_files.load_base(target, tmp_path)
    assert report.missing == ("resampler.frame_embed",)
    trained = egoinstructor_captioner.publish(source.state_dict(), trained_only=True)
    egoinstructor_captioner.load_captioner(target, trained)
    loaded = target.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in source.state_dict().items())


def test_a_file_with_a_frozen_weight_missing_is_refused() -> None:
    whole = egoinstructor_captioner.publish(TINY.build().state_dict())
    del whole["lang_encoder.transformer.ln_f.weight"]
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        egoinstructor_captioner.load_captioner(TINY.build(), whole)


def test_a_shorter_token_table_fills_the_rows_that_both_have() -> None:
    source, target = TINY.build(), TINY.build()
    before = target.embed.tokens.weight.detach().clone()
    whole = egoinstructor_captioner.publish(source.state_dict())
    name = egoinstructor_captioner.TOKENS
    egoinstructor_captioner.load_captioner(target, {**whole, name: whole[name][:300]})
    assert torch.equal(target.embed.tokens.weight[:300], source.embed.tokens.weight[:300])
    assert torch.equal(target.embed.tokens.weight[300:], before[300:])


def test_the_files_of_the_language_model_alone_fill_it() -> None:
    source, target = TINY.build(), TINY.build()
    published = egoinstructor_captioner.publish(source.state_dict())
    bare = {
        name.removeprefix("lang_encoder.").replace(".decoder_layer.", "."): tensor
        for name, tensor in published.items()
        if name.startswith("lang_encoder.") and "gated" not in name
    }
    egoinstructor_captioner.load_decoder(target, bare)
    assert torch.equal(target.embed.tokens.weight, source.embed.tokens.weight)
    name = "layers.1.decoder.mlp_up.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])
