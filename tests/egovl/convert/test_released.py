"""Whole released-style files of LaViLa, EgoVLP and CLIP into models."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovl.convert import clip, egovlp, lavila
from egovl.convert.keys import KeyMap
from egovl.convert.space_time import inflate_temporal
from egovl.convert.unpickle import Checkpoint, CheckpointError, load_checkpoint
from egovl.models.configs import (
    TIMM_STYLE,
    DualEncoderConfig,
    HFTextConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.models.dual_encoder import DualEncoder

# released transformers have heads of 64 channels, which their files do not say
VIDEO = VideoTowerConfig(image_size=16, patch_size=8, width=64, depth=2, heads=1, num_frames=4)
CLIP_TEXT = TextTowerConfig(vocab_size=50, context_length=8, width=64, heads=1, depth=2)
BERT_TEXT = HFTextConfig(
    vocab_size=50, context_length=8, width=64, heads=1, depth=2, hidden_width=96
)
LAVILA_CLIP = DualEncoderConfig(video=VIDEO, text=CLIP_TEXT, embed_dim=16)
LAVILA_GATED = replace(LAVILA_CLIP, video=replace(VIDEO, gated_time=True))
LAVILA_BERT = replace(LAVILA_CLIP, text=BERT_TEXT)
LAVILA_EGOVLP = DualEncoderConfig(
    video=replace(VIDEO, **TIMM_STYLE), text=BERT_TEXT, embed_dim=16, projection="frozen_in_time"
)
EGOVLP = replace(LAVILA_EGOVLP, normalize=False)

CLIPS = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[5, 6, 49], [7, 49, 0]])
MASK = TOKENS != 0


def random_model(config: DualEncoderConfig) -> DualEncoder:
    torch.manual_seed(0)
    model = config.build().eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    return model


def published(model: DualEncoder, keys: KeyMap) -> dict[str, Tensor]:
    known = {n: t for n, t in model.state_dict().items() if keys.to_published(n)}
    return keys.publish(known)


def outputs(model: DualEncoder) -> tuple[Tensor, Tensor]:
    return model.encode_video(CLIPS), model.encode_text(TOKENS, MASK)


@pytest.mark.parametrize("config", [LAVILA_CLIP, LAVILA_GATED, LAVILA_BERT, LAVILA_EGOVLP])
def test_a_lavila_file_rebuilds_its_model(config: DualEncoderConfig, tmp_path: Path) -> None:
    model = random_model(config)
    state = published(model, lavila.DUAL_ENCODER_KEYS)
    content = {
        "state_dict": OrderedDict((f"module.{k}", v) for k, v in state.items()),
        "args": argparse.Namespace(norm_embed=True, output_dir=Path("x")),
    }
    if config.text is BERT_TEXT:
        content["state_dict"]["module.textual.embeddings.position_ids"] = torch.arange(8)[None]
    torch.save(content, tmp_path / "model.pth")
    loaded, report = lavila.load_dual_encoder(load_checkpoint(tmp_path / "model.pth"))
    assert replace(loaded.config, temperature_init=0.07) == config
    assert report.matched == len(model.state_dict())
    torch.testing.assert_close(outputs(loaded.eval()), outputs(model), atol=0, rtol=0)


@pytest.mark.parametrize(("args", "normalize"), [({}, True), ({"norm_embed": False}, False)])
def test_lavilas_arguments_say_whether_embeddings_are_normalised(
    args: dict[str, object], normalize: bool
) -> None:
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    assert lavila.dual_encoder_config(state, args).normalize is normalize


def test_an_egovlp_file_rebuilds_its_model_without_a_temperature(tmp_path: Path) -> None:
    model = random_model(EGOVLP)
    state = published(model, egovlp.DUAL_ENCODER_KEYS)
    assert not any("logit_scale" in key for key in state)
    content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}
    torch.save(content, tmp_path / "model.pth")
    loaded, report = egovlp.load_dual_encoder(load_checkpoint(tmp_path / "model.pth"))
    assert loaded.config == EGOVLP
    assert report.missing == ("logit_scale",)
    torch.testing.assert_close(outputs(loaded.eval()), outputs(model), atol=0, rtol=0)


def test_a_longer_clip_inflates_the_temporal_embedding_by_the_papers_rule() -> None:
    for module, config, rule in (
        (lavila, LAVILA_CLIP, {"mode": "bilinear"}),
        (egovlp, EGOVLP, {"mode": "zeros"}),
    ):
        model = random_model(config)
        state = published(model, module.DUAL_ENCODER_KEYS)
        longer, _ = module.load_dual_encoder(Checkpoint(Path("x"), state), num_frames=8)
        rows = model.video.temporal_embed.detach()
        torch.testing.assert_close(
            longer.video.temporal_embed.detach(), inflate_temporal(rows, 8, **rule)
        )
        # 4 frames still use rows 0 to 3, which zero padding leaves alone
        if rule["mode"] == "zeros":
            torch.testing.assert_close(outputs(longer.eval()), outputs(model))


@pytest.mark.parametrize(
    ("mode", "align", "want"),
    [
        ("bilinear", False, [0.0, 0.25, 0.75, 1.0]),
        ("bilinear", True, [0.0, 1 / 3, 2 / 3, 1.0]),
        ("zeros", False, [0.0, 1.0, 0.0, 0.0]),
        ("interp", False, [0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_two_temporal_rows_become_four(mode: str, align: bool, want: list[float]) -> None:
    rows = torch.tensor([0.0, 1.0]).view(1, 2, 1)
    torch.testing.assert_close(inflate_temporal(rows, 4, mode, align).flatten(), torch.tensor(want))
    torch.testing.assert_close(inflate_temporal(rows, 1, mode, align).flatten(), torch.zeros(1))


def test_an_unknown_inflation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode='cubic' .*bilinear, zeros or interp"):
        inflate_temporal(torch.zeros(1, 2, 3), 4, "cubic")


def test_another_number_of_patches_is_refused_with_both_numbers() -> None:
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    larger = replace(LAVILA_CLIP, video=replace(VIDEO, image_size=32)).build()
    with pytest.raises(CheckpointError, match="4 patches, the model's 16"):
        lavila.load_state(larger, state)


def test_another_number_of_frames_without_inflation_is_refused() -> None:
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    longer = replace(LAVILA_CLIP, video=replace(VIDEO, num_frames=16)).build()
    with pytest.raises(CheckpointError, match="4 frames, the model 16; inflate it first"):
        lavila.load_state(longer, state)


def test_files_of_another_system_are_refused() -> None:
    ours = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    theirs = published(random_model(EGOVLP), egovlp.DUAL_ENCODER_KEYS)
    with pytest.raises(CheckpointError, match="not an EgoVLP dual encoder"):
        egovlp.dual_encoder_config(ours)
    with pytest.raises(CheckpointError, match="not a LaViLa dual encoder"):
        lavila.dual_encoder_config(theirs)
    with pytest.raises(CheckpointError, match="not a CLIP checkpoint"):
        clip.image_tower_config(theirs, num_frames=4)


def test_a_vit_fills_all_that_does_not_act_in_time() -> None:
    config = replace(VIDEO, **TIMM_STYLE)
    donor = random_model(EGOVLP).video
    keys = egovlp.SPACE_TIME_KEYS
    state = {k: v for k, v in keys.publish(donor.state_dict()).items() if "time" not in k}
    state = {k: v for k, v in state.items() if "temporal" not in k and "norm3" not in k}
    tower = config.build().eval()
    report = egovlp.load_vit(tower, state | {"head.weight": torch.ones(7, 64)})
    assert report.unexpected == ("head.weight",)
    assert len(report.missing) == 1 + 6 * config.depth
    torch.testing.assert_close(tower.pos_embed, donor.pos_embed)
    del state["norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors: norm\.weight"):
        egovlp.load_vit(config.build(), state)


def _clip_state() -> dict[str, Tensor]:
    model = random_model(replace(LAVILA_CLIP, embed_dim=24))
    state = published(model, clip.DUAL_ENCODER_KEYS)
    return state | {"input_resolution": torch.tensor(16), "vocab_size": torch.tensor(50)}


def test_clip_gives_its_projections_only_at_its_own_width() -> None:
    state = _clip_state()
    same = clip.dual_encoder_config(state, num_frames=4).build()
    report = clip.load_dual_encoder(same, state)
    assert same.config.embed_dim == 24
    assert report.dropped == ("input_resolution", "vocab_size")
    torch.testing.assert_close(same.logit_scale[0], state["logit_scale"])
    torch.testing.assert_close(same.video_projection.weight, state["visual.proj"].t())

    other = clip.dual_encoder_config(state, num_frames=4, embed_dim=16).build()
    report = clip.load_dual_encoder(other, state)
    own = {"logit_scale", "video_projection.weight", "text_projection.weight"}
    assert own <= set(report.missing)
    assert other.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_clip_fills_one_tower_alone() -> None:
    state = _clip_state()
    text = clip.text_tower_config(state).build()
    assert clip.load_text_tower(text, state).missing == ()
    torch.testing.assert_close(text.token_embed.weight, state["token_embedding.weight"])
    with_bert = random_model(replace(LAVILA_BERT, embed_dim=24))
    words = with_bert.text.model.embeddings.word_embeddings.weight.clone()
    report = clip.load_dual_encoder(with_bert, state)
    assert "token_embedding.weight" in report.unexpected
    torch.testing.assert_close(with_bert.video.pos_embed[0], state["visual.positional_embedding"])
    torch.testing.assert_close(with_bert.text.model.embeddings.word_embeddings.weight, words)
