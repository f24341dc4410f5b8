"""The aggregator above any dual encoder; parts that do not learn; labels of long videos."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from egovl.models.configs import (
    DualEncoderConfig,
    HFTextConfig,
    ImageTowerConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.models.hierarchical_encoder import HierarchicalEncoder, ParentInputs, ParentOutput
from egovl.models.hierarchy_configs import (
    AverageConfig,
    Frozen,
    HierarchicalEncoderConfig,
    LongVideoConfig,
    SelfAttentionConfig,
)

VIDEO: Any = {"image_size": 32, "width": 16, "depth": 2, "heads": 2, "num_frames": 2}
TEXT: Any = {"vocab_size": 32, "context_length": 8, "width": 16, "heads": 2, "depth": 1}
CLIPS = 3

ENCODERS = {
    "lavila": DualEncoderConfig(
        video=VideoTowerConfig(**VIDEO), text=TextTowerConfig(**TEXT), embed_dim=8
    ),
    "egovlp": DualEncoderConfig(
        video=VideoTowerConfig(**VIDEO, ln_pre=False, patch_bias=True, activation="gelu"),
        text=HFTextConfig(**TEXT, hidden_width=32, dropout=0.0, attention_dropout=0.0),
        embed_dim=8,
        projection="frozen_in_time",
        normalize=False,
    ),
    "clip": DualEncoderConfig(
        video=ImageTowerConfig(**VIDEO), text=TextTowerConfig(**TEXT), embed_dim=8
    ),
    "identity": DualEncoderConfig(
        video=VideoTowerConfig(**VIDEO),
        text=TextTowerConfig(**TEXT),
        embed_dim=16,
        projection="identity",
    ),
}


def build(encoder: str, frozen: Frozen = "none") -> HierarchicalEncoder:
    torch.manual_seed(0)
    aggregator = SelfAttentionConfig(num_clips=CLIPS, depth=2, heads=2, drop_path=0.0)
    config = HierarchicalEncoderConfig(
        encoder=ENCODERS[encoder], aggregator=aggregator, frozen=frozen
    )
    return config.build()


def inputs() -> ParentInputs:
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 30, (2, CLIPS + 1, 8), generator=draw)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return ParentInputs(
        video=torch.randn(2, CLIPS, 3, 2, 32, 32, generator=draw),
        summary=tokens[:, 0],
        summary_mask=mask[:, 0],
        narrations=tokens[:, 1:],
        narration_mask=mask[:, 1:],
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_aggregator_stands_on_any_dual_encoder(encoder: str) -> None:
    model, given = build(encoder).eval(), inputs()
    output = model(parents=given)
    assert isinstance(output, ParentOutput)
    assert given.video is not None and output.clips is not None and output.video_parent is not None
    one_by_one = torch.stack([model.encode_video(clips) for clips in given.video])
    torch.testing.assert_close(output.clips, one_by_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        output.video_parent, model.aggregate(one_by_one), rtol=1e-4, atol=1e-5
    )
    if ENCODERS[encoder].normalize:
        torch.testing.assert_close(output.video_parent.norm(dim=-1), torch.ones(2))
    assert output.text_parent is not None and output.summary is not None
    parts = output.video_parent, output.text_parent, output.summary
    torch.cat(parts).square().mul(torch.arange(6.0)[:, None]).mul(
        torch.arange(1.0, parts[0].shape[1] + 1)
    ).sum().backward()
    learned = [p for n, p in model.named_parameters() if n != "logit_scale" and p.grad is None]
    assert not learned
    child = model(given.video[:, 0], given.summary, given.summary_mask)
    assert child.video.shape == child.text.shape == (2, ENCODERS[encoder].embed_dim)


def test_one_aggregator_serves_clips_and_narrations() -> None:
    model = build("lavila").eval()
    x = torch.randn(2, CLIPS, 8)
    twice = ParentInputs(clips=x)
    found = model(parents=twice)
    assert torch.equal(found.video_parent, model.aggregate(x))
    assert found.text_parent is None and found.summary is None


@pytest.mark.parametrize(
    ("frozen", "still"),
    [("none", ()), ("video", ("video",)), ("towers", ("video", "text"))],
)
def test_frozen_parts_get_no_gradient_and_stay_in_evaluation_mode(
    frozen: Frozen, still: tuple[str, ...]
) -> None:
    model = build("egovlp", frozen).train()
    output = model(parents=inputs())
    (output.video_parent.sum() + output.summary.sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    parts = {name.split(".")[0].split("_")[0] for name in without}
    assert parts - {"logit"} == set(still)
    for name in ("video", "text"):
        assert getattr(model, name).training == (name not in still)
    assert model.aggregator.training


def test_a_probe_learns_its_head_alone_and_known_clips_give_the_same_logits() -> None:
    config = LongVideoConfig(
        heads={"label": 5}, encoder=ENCODERS["egovlp"], aggregator=AverageConfig()
    )
    model, given = config.build().train(), inputs()
    assert given.video is not None
    logits = model(given.video)["label"]
    logits.sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "heads.label.weight",
        "heads.label.bias",
    }
    known = torch.stack([model.encode_video(clips) for clips in given.video])
    torch.testing.assert_close(model(clips_BKP=known)["label"], logits, rtol=1e-4, atol=1e-5)


def test_heads_of_several_steps_tell_each_of_them() -> None:
    config = LongVideoConfig(
        heads={"verb": 4, "noun": 7},
        encoder=ENCODERS["lavila"],
        aggregator=SelfAttentionConfig(num_clips=CLIPS, depth=1, heads=2),
        num_steps=6,
    )
    video = inputs().video
    logits = config.build()(video)
    assert {k: tuple(x.shape) for k, x in logits.items()} == {"verb": (2, 6, 4), "noun": (2, 6, 7)}
