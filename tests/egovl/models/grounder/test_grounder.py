from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from egovl.models.grounder.configs import GrounderConfig, Layers
from egovl.models.grounder.grounder import Grounder, PointScores

TINY = GrounderConfig(
    video_dim=6,
    text_dim=5,
    max_length=256,
    layers=Layers(embed=2, text=1, video=1, branch=3),
    width=8,
    heads=2,
    window=(5,),
    neck_dim=8,
    head_dim=8,
    ranges=((0, 4), (2, 8), (4, 16), (8, 10000)),
)
LEAKY = replace(TINY, legacy_text_padding=True, legacy_video_padding=True)


def build(config: GrounderConfig) -> Grounder:
    torch.manual_seed(0)
    model = config.build().eval()
    with torch.no_grad():  # the start values hide every block
        for param in model.parameters():
            param.add_(0.3 * torch.randn_like(param))
    return model


def inputs(length: int, words: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length * 100 + words)
    video = torch.randn(1, length, 6, generator=generator)
    text = torch.randn(1, words, 5, generator=generator)
    return video, torch.ones(1, length).bool(), text, torch.ones(1, words).bool()


def padded(x: Tensor, length: int) -> Tensor:
    tail = torch.zeros(1, length - x.shape[1], *x.shape[2:], dtype=x.dtype)
    return torch.cat([x, tail], dim=1)


def differences(ours: list[PointScores], full: list[PointScores], row: int) -> float:
    worst = 0.0
    for level, whole in zip(ours, full, strict=True):
        count = int(level.mask[0].sum())
        assert count == int(whole.mask[row].sum())
        for name in ("logits", "offsets"):
            a, b = getattr(level, name)[0, :count], getattr(whole, name)[row, :count]
            worst = max(worst, float((a - b).abs().max()))
    return worst


@pytest.mark.parametrize("length", [1, 8, 9, 63, 64, 200, 248, 249, 256])
def test_a_bucket_answers_what_full_padding_answers(length: int) -> None:
    model = build(LEAKY)
    video, mask, text, text_mask = inputs(length, 4)
    with torch.no_grad():
        ours = model(video, mask, text, text_mask)
        full = model(padded(video, 256), padded(mask, 256), text, text_mask)
    assert ours[0].mask.shape[1] == LEAKY.padded_length(length) <= 256
    assert differences(ours, full, 0) < 1e-5


def test_one_place_less_than_the_rule_asks_gives_another_answer() -> None:
    model = build(LEAKY)
    video, mask, text, text_mask = inputs(64, 4)
    with torch.no_grad():
        full = model(padded(video, 256), padded(mask, 256), text, text_mask)
        tight = build(replace(LEAKY, max_length=64))(video, mask, text, text_mask)
    assert differences(tight, full, 0) > 1e-3


def test_without_the_published_leaks_a_query_does_not_see_its_batch() -> None:
    model = build(TINY)
    video, mask, text, text_mask = inputs(50, 3)
    other = inputs(203, 9)
    batch = [
        torch.cat([padded(x, y.shape[1]), y])
        for x, y in zip((video, mask, text, text_mask), other, strict=True)
    ]
    with torch.no_grad():
        alone, together = model(video, mask, text, text_mask), model(*batch)
    assert differences(alone, together, 0) < 1e-5


def test_with_them_it_does() -> None:
    model = build(LEAKY)
    video, mask, text, text_mask = inputs(50, 3)
    longer = torch.cat([padded(text, 9), inputs(50, 9)[2]])
    longer_mask = torch.cat([padded(text_mask, 9), torch.ones(1, 9).bool()])
    with torch.no_grad():
        alone = model(video, mask, text, text_mask)
        together = model(video, mask, longer, longer_mask, torch.tensor([0, 0]))
    assert differences(alone, together, 0) > 1e-4


def test_queries_of_one_clip_share_its_features_and_nothing_else() -> None:
    model = build(TINY)
    videos = [inputs(40, 4), inputs(60, 4)]
    video = torch.cat([padded(videos[0][0], 60), videos[1][0]])
    mask = torch.cat([padded(videos[0][1], 60), videos[1][1]])
    texts = torch.cat([videos[k][2] for k in (0, 1, 0)])
    rows = torch.tensor([1, 0, 1])
    with torch.no_grad():
        shared = model(video, mask, texts, torch.ones(3, 4).bool(), rows)
        each = model(video[rows], mask[rows], texts, torch.ones(3, 4).bool())
    for a, b in zip(shared, each, strict=True):
        torch.testing.assert_close(a.logits, b.logits)


def test_a_video_longer_than_the_positions_is_answered_in_evaluation_and_refused_in_training() -> (
    None
):
    model = build(LEAKY)
    with torch.no_grad():
        levels = model(*inputs(300, 4))
    assert levels[0].mask.shape[1] == 312
    assert torch.isfinite(levels[0].logits).all()
    model.train()
    with pytest.raises(ValueError, match="300 feature steps: the model has 256"):
        model(*inputs(300, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"window": (-1,)},
        {"relative_positions": True},
        {"num_classes": 3, "empty_classes": (2,)},
        {"absolute_positions": False},
        {"neck": "fpn", "neck_dim": 12, "head_dim": 10},
        {"start_level": 1, "ranges": ((0, 8), (4, 16), (8, 10000))},
        {"window": (5, 3, -1, 7)},
        {"embed_norm": False, "neck_norm": False, "head_norm": False},
        {"drop_path": 0.0},
        {"head_layers": 1},
        {"kernel": 5, "head_kernel": 5},
        {"scale_factor": 4},
        {"layers": Layers(embed=1, text=2, video=1, cross_branch=2, branch=1)},
    ],
    ids=str,
)
def test_every_option_builds_answers_and_learns(changes: dict[str, object]) -> None:
    config = replace(TINY, **changes)  # type: ignore[arg-type]
    model = build(config).train()
    levels = model(*inputs(70, 4))
    assert len(levels) == len(config.strides)
    for level, stride in zip(levels, config.strides, strict=True):
        assert level.points[1, 0] == stride
        assert level.logits.shape[-1] == config.num_classes
        assert (level.offsets >= 0).all()
    sum(level.logits.sum() + level.offsets.sum() for level in levels).backward()  # type: ignore[union-attr]
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads=3"),
        ({"window": (4,)}, "odd"),
        ({"ranges": ((0, 4),)}, "one for each of the 4 levels"),
        ({"max_length": 100}, "a multiple of the last stride 8"),
        ({"neck_dim": 16}, "the width 8 with neck identity"),
        ({"window": (5, 5)}, "one number, or 4"),
        ({"scale_factor": 3}, "even"),
        ({"empty_classes": (1,)}, "numbers below 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_the_published_second_branch_counts_its_windows_from_one_again() -> None:
    layers = Layers(cross_branch=1, branch=2)
    config = replace(TINY, layers=layers, window=(3, 5, 7, 9))
    assert [config.window_of(level) for level in range(4)] == [3, 5, 7, 9]
    legacy = replace(config, legacy_window_index=True)
    assert [legacy.window_of(level) for level in range(4)] == [3, 5, 5, 7]
