"""HierVL's files in and out: what may be missing, what is never used, other systems' towers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egovl.convert import hiervl, own
from egovl.convert.initialize import load_weights
from egovl.convert.released import convert_released, publish
from egovl.convert.unpickle import CheckpointError
from egovl.models.configs import (
    TIMM_STYLE,
    DualEncoderConfig,
    HFTextConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.models.hierarchy_configs import (
    AverageConfig,
    HierarchicalEncoderConfig,
    LongVideoConfig,
    SelfAttentionConfig,
)

ENCODER = DualEncoderConfig(
    video=VideoTowerConfig(
        image_size=16, patch_size=8, width=64, depth=1, heads=1, num_frames=2, **TIMM_STYLE
    ),
    text=HFTextConfig(vocab_size=20, context_length=8, width=64, heads=1, depth=1, hidden_width=32),
    embed_dim=64,
    projection="frozen_in_time",
    normalize=False,
)
HIERARCHY = HierarchicalEncoderConfig(
    encoder=ENCODER, aggregator=SelfAttentionConfig(num_clips=4, depth=2, heads=2)
)


def random_weights(config: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {k: torch.randn_like(v) for k, v in config.build().state_dict().items()}


@pytest.fixture
def released(tmp_path: Path) -> Path:
    file = tmp_path / "hievl_sa.pth"
    content = publish(HIERARCHY, random_weights(HIERARCHY), "hiervl")
    state = content["state_dict"]
    # wrapped twice, as some released files are
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, file)
    return file


def test_a_file_comes_in_and_goes_out_key_for_key(released: Path, tmp_path: Path) -> None:
    found = convert_released(released, "hiervl", strict=True)
    assert found.config == HIERARCHY
    for name, tensor in random_weights(HIERARCHY).items():
        if name != "logit_scale":
            assert torch.equal(found.weights[name], tensor), name
    unused = {name for name in found.report.dropped if name.startswith("aggregation.")}
    assert unused == {
        f"aggregation.{name}"
        for name in hiervl.unused_shapes(HIERARCHY.aggregator, 64)  # type: ignore[arg-type]
    }
    assert {n for n in found.report.dropped if "ht100m" in n}
    again = publish(found.config, found.weights, "hiervl")["state_dict"]
    first = torch.load(released, weights_only=True)["state_dict"]
    assert {f"module.{n}": tuple(t.shape) for n, t in again.items()} == {
        n: tuple(t.shape) for n, t in first.items()
    }


def state_of(file: Path) -> dict[str, Tensor]:
    stored = torch.load(file, weights_only=True)["state_dict"]
    return {name.replace("module.", ""): tensor for name, tensor in stored.items()}


def without(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(start)}


def test_a_model_without_aggregator_takes_the_towers_and_reports_the_rest(released: Path) -> None:
    for config in (ENCODER, replace(HIERARCHY, aggregator=AverageConfig())):
        report = load_weights(config.build(), "hiervl", state_of(released))
        assert {name.split(".")[0] for name in report.unexpected} == {"aggregation"}


def test_a_file_without_aggregator_leaves_it_as_it_is(released: Path) -> None:
    state = without(state_of(released), "aggregation.")
    for origin in ("hiervl", "egovlp"):
        weights = without(state, "head_") if origin == "egovlp" else state
        report = load_weights(HIERARCHY.build(), origin, weights)
        assert all(n.startswith("aggregator.") or n == "logit_scale" for n in report.missing)


@pytest.mark.parametrize(
    "gone", ["aggregation.norm.weight", "video_model.norm.weight", "txt_proj.1.bias"]
)
def test_anything_else_that_is_missing_is_an_error(released: Path, gone: str) -> None:
    state = state_of(released)
    del state[gone]
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        load_weights(HIERARCHY.build(), "hiervl", state)


def test_a_wrong_prefix_is_an_error(released: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in state_of(released).items()}
    with pytest.raises(CheckpointError, match="nothing in this checkpoint fits"):
        load_weights(HIERARCHY.build(), "hiervl", state)


def long_video(heads: dict[str, int], **options: Any) -> nn.Module:
    return LongVideoConfig(heads=heads, encoder=ENCODER, **options).build()


def test_a_long_video_model_takes_tower_aggregator_and_probe(released: Path) -> None:
    state = state_of(released)
    state["head_ht100m_linear_probe.0.bias"] = torch.arange(100.0)
    probe = long_video({"label": 100})
    load_weights(probe, "hiervl", state)
    assert torch.equal(probe.state_dict()["heads.label.bias"], torch.arange(100.0))
    steps = long_video({"verb": 5}, aggregator=HIERARCHY.aggregator, num_steps=2)
    report = load_weights(steps, "hiervl", state)
    assert set(report.missing) == {"heads.verb.weight", "heads.verb.bias"}
    weights = steps.state_dict()
    assert torch.equal(weights["aggregator.cls_token"], state["aggregation.cls_token"])


def test_our_own_weights_fill_every_model_that_shares_towers() -> None:
    weights = random_weights(HIERARCHY)
    towers = random_weights(ENCODER)
    report = own.load_dual_encoder(ENCODER.build(), weights)
    assert report.dropped and all(n.startswith("aggregator.") for n in report.dropped)
    report = own.load_dual_encoder(HIERARCHY.build(), towers)
    assert report.missing and all(n.startswith("aggregator.") for n in report.missing)
    for state in (weights, towers):
        model: Any = long_video({"verb": 5}, aggregator=HIERARCHY.aggregator)
        own.load_long_video(model, state)
        assert torch.equal(model.state_dict()["video.cls_token"], state["video.cls_token"])
    model = HIERARCHY.build()
    broken = {n: t for n, t in weights.items() if n != "aggregator.norm.weight"}
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors: aggregator\.norm\.weight"):
        own.load_dual_encoder(model, broken)


def test_lavilas_towers_carry_an_aggregator_too() -> None:
    encoder = replace(
        ENCODER,
        video=replace(ENCODER.video, ln_pre=True, patch_bias=False, activation="quick_gelu"),
        text=TextTowerConfig(vocab_size=20, context_length=8, width=64, heads=1, depth=1),
        projection="linear",
        normalize=True,
    )
    config = replace(HIERARCHY, encoder=encoder)
    state = publish(config, random_weights(config), "lavila")["state_dict"]
    model = config.build()
    report = load_weights(model, "lavila", state)
    assert all(name.startswith("aggregator.") for name in report.missing)
    with pytest.raises(CheckpointError, match="EgoVLP and HierVL"):
        publish(config, random_weights(config), "hiervl")
