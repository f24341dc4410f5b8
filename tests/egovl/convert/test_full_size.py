"""Full-size random checkpoints in the released layouts: in, strictly, and out again, key for key.

Names and shapes stand here as the papers' files have them (EgoVLP spec 2.5, LaViLa spec 2.1, 2.4
and 2.8), not as our code would make them. One model at a time: the largest takes 4 GiB.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovl.__main__ import main
from tests.parity.golden import GOLDEN_ROOT

pytestmark = pytest.mark.slow

Shapes = dict[str, tuple[int, ...]]

# width, depth, patch, patches a frame
TOWERS = {"BASE": (768, 12, 16, 196), "LARGE": (1024, 24, 14, 256), "336PX": (1024, 24, 14, 576)}
TEXT_WIDTHS = {"BASE": 512, "LARGE": 768, "336PX": 768}


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def tower(size: str, frames: int) -> Shapes:
    width, depth, patch, patches = TOWERS[size]
    shapes: Shapes = {
        "visual.cls_token": (1, 1, width),
        "visual.pos_embed": (1, 1 + patches, width),
        "visual.temporal_embed": (1, frames, width),
        "visual.patch_embed.proj.weight": (width, 3, patch, patch),
        **norm("visual.ln_pre", width),
        **norm("visual.norm", width),
    }
    for i in range(depth):
        block = f"visual.blocks.{i}"
        for attention in ("attn", "timeattn"):
            shapes |= linear(f"{block}.{attention}.qkv", 3 * width, width)
            shapes |= linear(f"{block}.{attention}.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
        for name in ("norm1", "norm2", "norm3"):
            shapes |= norm(f"{block}.{name}", width)
    return shapes


def clip_text(width: int) -> Shapes:
    shapes: Shapes = {
        "token_embedding.weight": (49408, width),
        "positional_embedding": (77, width),
        **norm("ln_final", width),
    }
    for i in range(12):
        block = f"transformer.resblocks.{i}"
        shapes[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
        shapes |= linear(f"{block}.attn.out_proj", width, width)
        shapes |= linear(f"{block}.mlp.c_fc", 4 * width, width)
        shapes |= linear(f"{block}.mlp.c_proj", width, 4 * width)
        shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
    return shapes


def distilbert() -> Shapes:
    shapes: Shapes = {
        "textual.embeddings.word_embeddings.weight": (30522, 768),
        "textual.embeddings.position_embeddings.weight": (512, 768),
        **norm("textual.embeddings.LayerNorm", 768),
    }
    for i in range(6):
        layer = f"textual.transformer.layer.{i}"
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= linear(f"{layer}.attention.{name}", 768, 768)
        shapes |= linear(f"{layer}.ffn.lin1", 3072, 768) | linear(f"{layer}.ffn.lin2", 768, 3072)
        for name in ("sa_layer_norm", "output_layer_norm"):
            shapes |= norm(f"{layer}.{name}", 768)
    return shapes


def lavila_shapes(size: str, text: str) -> Shapes:
    width = TEXT_WIDTHS[size] if text == "clip" else 768
    return {
        **tower(size, frames=4),
        **(clip_text(width) if text == "clip" else distilbert()),
        "image_projection": (TOWERS[size][0], 256),
        "text_projection": (width, 256),
        "logit_scale": (),
    }


def random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Half precision, as released; every tensor another stretch of one storage."""
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    pool = torch.randn(max(sizes.values()) + 7 * len(sizes)).half()
    return {
        f"module.{name}": pool[7 * k : 7 * k + sizes[name]].view(shape)
        for k, (name, shape) in enumerate(shapes.items())
    }


def assert_round_trip(
    folder: Path, origin: str, state: Mapping[str, Tensor], beside: object
) -> None:
    released, ours, back = (folder / n for n in ("released.pth", "ours.safetensors", "back.pth"))
    torch.save({"state_dict": dict(state), "epoch": 5, "args": beside}, released)
    into = ["convert", str(released), "--origin", origin, "--out", str(ours), "--half", "--strict"]
    assert main(into) == 0
    released.unlink()
    out = ["convert", str(ours), "--origin", "egovl", "--out", str(back), "--to", origin, "--half"]
    assert main(out) == 0
    ours.unlink()
    content = torch.load(back, weights_only=False, mmap=True)
    stored = content["state_dict"]
    assert {k: tuple(v.shape) for k, v in stored.items()} == {
        k: tuple(v.shape) for k, v in state.items()
    }
    assert all(torch.equal(stored[key], state[key]) for key in state)
    if beside is not None:
        assert content["args"].model == beside.model


@pytest.mark.parametrize(
    ("size", "text", "model", "video_parameters"),
    [
        ("BASE", "clip", "CLIP_OPENAI_TIMESFORMER_BASE", 114_169_344),
        pytest.param(
            "LARGE",
            "clip",
            "CLIP_OPENAI_TIMESFORMER_LARGE",
            403_994_624,
            marks=pytest.mark.soak,
        ),
        pytest.param(
            "336PX",
            "bert",
            "CLIP_OPENAI_TIMESFORMER_LARGE_336PX_DISTILBERT_BASE",
            404_322_304,
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_full_size_lavila_file_comes_back_key_for_key(
    size: str, text: str, model: str, video_parameters: int, tmp_path: Path
) -> None:
    shapes = lavila_shapes(size, text)
    video = [s for name, s in shapes.items() if name.startswith("visual.")]
    assert sum(torch.Size(s).numel() for s in video) == video_parameters  # the paper's table
    arguments = Namespace(model=model, norm_embed=True, project_embed_dim=256, clip_length=4)
    assert_round_trip(tmp_path, "lavila", random_state(shapes), arguments)


@pytest.mark.parametrize(("size", "text"), [("336PX", "clip"), ("BASE", "bert"), ("LARGE", "bert")])
def test_the_other_full_sizes_have_our_names_and_shapes(size: str, text: str) -> None:
    from egovl.convert import lavila
    from egovl.convert.load import match_published

    shapes = lavila_shapes(size, text)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = lavila.dual_encoder_config(state)
    with torch.device("meta"):
        own = config.build().state_dict()
    _, report = match_published(own, state, lavila.DUAL_ENCODER_KEYS)
    assert report.matched == len(shapes) == len(own)
    assert {n: tuple(t.shape) for n, t in lavila.DUAL_ENCODER_KEYS.publish(own).items()} == shapes


def test_a_full_size_egovlp_file_comes_back_key_for_key(tmp_path: Path) -> None:
    golden = GOLDEN_ROOT / "egovlp" / "state_dict_keys_full.json"
    if not golden.exists():
        pytest.skip(f"{golden} is not there")
    shapes = {k: tuple(v) for k, v in json.loads(golden.read_text())["tensors"].items()}
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 180_934_400
    assert_round_trip(tmp_path, "egovlp", random_state(shapes), None)
