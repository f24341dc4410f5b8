"""Weights of every origin into models of other sizes and kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovl.convert import clip, egovlp, lavila
from egovl.convert.initialize import Adaptation, find_origin, load_released, load_weights
from egovl.convert.released import publish
from egovl.convert.save import save_weights
from egovl.convert.space_time import inflate_temporal, resize_positions
from egovl.convert.unpickle import CheckpointError
from egovl.models.classifier import Classifier
from egovl.models.configs import ClassifierConfig, ImageTowerConfig
from tests.egovl.convert.test_released import (
    EGOVLP,
    LAVILA_CLIP,
    VIDEO,
    outputs,
    published,
    random_model,
)

HEADS = ClassifierConfig(heads={"verb": 3, "noun": 4, "action": 5}, video=VIDEO)
LARGER = replace(VIDEO, image_size=32, num_frames=8)


def test_a_larger_clip_and_picture_are_adapted_when_asked_for() -> None:
    for origin, module, config in (
        ("lavila", lavila, LAVILA_CLIP),
        ("egovlp", egovlp, EGOVLP),
    ):
        source = random_model(config)
        state = published(source, module.DUAL_ENCODER_KEYS)
        larger = replace(config, video=replace(config.video, image_size=32, num_frames=8)).build()
        with pytest.raises(CheckpointError, match=r"init\.resize_positions=true"):
            load_weights(larger, origin, state)
        load_weights(larger, origin, state, Adaptation("bilinear", resize_positions=True))
        rows = source.video.temporal_embed.detach()
        expected = inflate_temporal(rows, 8, "bilinear", align_corners=origin == "egovlp")
        torch.testing.assert_close(larger.video.temporal_embed.detach(), expected)
        grid = resize_positions(source.video.pos_embed.detach(), 16)
        torch.testing.assert_close(larger.video.pos_embed.detach(), grid)


def test_our_own_weights_follow_the_model_to_longer_clips() -> None:
    source = random_model(LAVILA_CLIP)
    longer = replace(LAVILA_CLIP, video=LARGER).build()
    report = load_weights(longer, "egovl", source.state_dict(), Adaptation(resize_positions=True))
    assert report.missing == ()
    rows = source.video.temporal_embed.detach()
    torch.testing.assert_close(longer.video.temporal_embed.detach(), inflate_temporal(rows, 8))


def classifier(config: ClassifierConfig = HEADS) -> Classifier:
    torch.manual_seed(3)
    return config.build().eval()


@pytest.mark.parametrize("origin", ["egovl", "lavila"])
def test_a_dual_encoder_gives_its_tower_to_a_classifier(origin: str) -> None:
    source, target = random_model(LAVILA_CLIP), classifier()
    heads = {k: v.clone() for k, v in target.heads.state_dict().items()}
    state = source.state_dict()
    if origin == "lavila":
        state = published(source, lavila.DUAL_ENCODER_KEYS)
    report = load_weights(target, origin, state)
    assert set(report.missing) == {f"heads.{name}" for name in heads}
    torch.testing.assert_close(target.video.state_dict(), source.video.state_dict())
    torch.testing.assert_close(target.heads.state_dict(), heads)


def test_a_classifier_of_ours_fills_the_same_heads_and_leaves_others_out() -> None:
    source = classifier()
    same = replace(HEADS, heads={"verb": 3}).build()
    report = load_weights(same, "egovl", source.state_dict())
    assert "heads.noun.weight" in report.dropped
    torch.testing.assert_close(same.heads["verb"].weight, source.heads["verb"].weight)
    other = replace(HEADS, heads={"verb": 9}).build()
    with pytest.raises(CheckpointError, match=r"heads\.verb\.weight is \(3, 64\)"):
        load_weights(other, "egovl", source.state_dict())


def test_egovlps_projection_becomes_a_head_only_where_it_fits() -> None:
    source = random_model(replace(EGOVLP, embed_dim=16))
    state = published(source, egovlp.DUAL_ENCODER_KEYS)
    config = ClassifierConfig(heads={"frame": 16}, video=EGOVLP.video, dropout=0, head_std=None)
    fits = config.build()
    report = load_weights(fits, "egovlp", state)
    assert report.missing == ()
    torch.testing.assert_close(fits.heads["frame"].weight, source.video_projection[0].weight)
    two = replace(config, heads={"change": 2}).build()
    report = load_weights(two, "egovlp", state)
    assert {"vid_proj.0.weight", "vid_proj.0.bias"} <= set(report.dropped)
    assert set(report.missing) == {"heads.change.weight", "heads.change.bias"}


def per_frame_state() -> dict[str, Tensor]:
    frames = ImageTowerConfig(image_size=16, patch_size=8, width=64, depth=2, heads=1)
    model = random_model(replace(LAVILA_CLIP, video=frames))
    return published(model, clip.FRAME_DUAL_ENCODER_KEYS)


def test_clip_fills_a_tower_that_sees_frame_by_frame_whole() -> None:
    state = per_frame_state()
    model = clip.frame_dual_encoder_config(state).build().eval()
    assert load_weights(model, "clip", state).missing == ()
    again = lavila.dual_encoder_config(state).build().eval()
    load_weights(again, "lavila", state)
    torch.testing.assert_close(outputs(model), outputs(again))
    torch.testing.assert_close(
        published(model, clip.FRAME_DUAL_ENCODER_KEYS), state, atol=0, rtol=0
    )


def test_an_exported_file_is_read_by_its_origin(tmp_path: Path) -> None:
    source = random_model(LAVILA_CLIP)
    file = tmp_path / "x.safetensors"
    save_weights(file, source.state_dict(), config="model: {}", step=7)
    target = LAVILA_CLIP.build().eval()
    load_released(target, "egovl", file)
    torch.testing.assert_close(outputs(target), outputs(source), atol=0, rtol=0)
    with pytest.raises(FileNotFoundError, match="download the lavila weights"):
        load_released(target, "lavila", tmp_path / "none.pth")


def test_auto_finds_who_wrote_a_file(tmp_path: Path) -> None:
    source = random_model(LAVILA_CLIP)
    released = publish(LAVILA_CLIP, source.state_dict(), "lavila")
    torch.save(released, tmp_path / "released.pth")
    save_weights(tmp_path / "ours.safetensors", source.state_dict(), config="model: {}", step=7)
    for name in ("released.pth", "ours.safetensors"):
        target = LAVILA_CLIP.build().eval()
        load_released(target, "auto", tmp_path / name)
        torch.testing.assert_close(outputs(target), outputs(source), atol=0, rtol=0)
    egovlp_state = publish(EGOVLP, random_model(EGOVLP).state_dict(), "egovlp")["state_dict"]
    assert find_origin({k.removeprefix("module."): v for k, v in egovlp_state.items()}) == "egovlp"
    assert find_origin({**egovlp_state, "aggregation.cls_token": torch.ones(1)}) == "hiervl"
    assert find_origin({"visual.conv1.weight": torch.ones(1)}) == "clip"
    videomae = ("visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.q_bias")
    for names in (videomae, ("aggregation_projection",), ("perceiver.latents",)):
        assert find_origin({name: torch.ones(1) for name in names}) == "egoinstructor"
    assert find_origin({"blocks.0.attn.qkv.weight": torch.ones(1)}) == "timm"
    with pytest.raises(CheckpointError, match=r"it has a, b.*init\.origin="):
        find_origin({"a": torch.ones(1), "b": torch.ones(1)})
