"""From clips to a video: masks, any number of clips, order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from egovl.models.aggregator import (
    AverageAggregator,
    SelfAttentionAggregator,
    stretch_positions,
)
from egovl.models.hierarchy_configs import ClipCount, SelfAttentionConfig

WIDTH = 8


def aggregator(clip_count: ClipCount = "fixed") -> SelfAttentionAggregator:
    torch.manual_seed(0)
    config = SelfAttentionConfig(num_clips=6, depth=2, heads=2, clip_count=clip_count)
    module = config.build(WIDTH).eval()
    with torch.no_grad():  # the published start is so small that every output is nearly the same
        for param in module.parameters():
            param.copy_(torch.randn_like(param) * 0.5)
    return module


def clips(count: int, videos: int = 3) -> torch.Tensor:
    return torch.randn(videos, count, WIDTH, generator=torch.Generator().manual_seed(1))


def counts_mask(counts: list[int], places: int) -> torch.Tensor:
    return torch.arange(places) < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("clip_count", ["fixed", "any"])
def test_what_a_masked_clip_holds_does_not_matter(clip_count: ClipCount) -> None:
    module, x = aggregator(clip_count), clips(6)
    mask = counts_mask([6, 4, 1], 6)
    noisy = torch.where(mask[..., None], x, torch.full_like(x, 1e3))
    torch.testing.assert_close(module(noisy, mask), module(x, mask))
    assert not torch.allclose(module(x), module(x, mask))


@pytest.mark.parametrize("counts", [[2, 9, 5], [1, 16, 6]])
def test_a_video_padded_beside_longer_ones_is_the_video_alone(counts: list[int]) -> None:
    module = aggregator("any")
    places = max(counts)
    x = clips(places)
    together = module(x, counts_mask(counts, places))
    for row, count in enumerate(counts):
        alone = module(x[row : row + 1, :count])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_positions_of_as_many_clips_as_rows_are_the_table() -> None:
    x = clips(6)
    torch.testing.assert_close(aggregator("any")(x), aggregator("fixed")(x), rtol=0, atol=0)
    table = torch.randn(6, WIDTH)
    found = stretch_positions(table, torch.tensor([6, 11, 1]), 11)
    assert torch.equal(found[0, :6], table)
    assert torch.equal(found[1, [0, 10]], table[[0, 5]])
    torch.testing.assert_close(found[1, 1], (table[0] + table[1]) / 2)
    torch.testing.assert_close(found[2, 0], (table[2] + table[3]) / 2)


@pytest.mark.parametrize("count", [1, 5, 8])
def test_another_number_of_clips_is_refused_and_the_message_says_what_to_set(count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count} clips.*takes 6.*clip_count=any"):
        aggregator()(clips(count))


def test_the_legacy_rule_takes_one_clip_for_all_and_no_other_number() -> None:
    module = aggregator("legacy_broadcast")
    one = clips(1)
    torch.testing.assert_close(module(one), module(one.expand(-1, 6, -1)))
    with pytest.raises(ValueError, match="2 clips"):
        module(clips(2))


def test_the_order_of_clips_matters_to_attention_and_not_to_the_mean() -> None:
    x, order = clips(6), torch.tensor([5, 0, 3, 1, 4, 2])
    module = aggregator()
    assert (module(x) - module(x[:, order])).abs().max() > 1e-3
    torch.testing.assert_close(AverageAggregator()(x), AverageAggregator()(x[:, order]))


def test_a_masked_mean_is_the_mean_of_what_is_there() -> None:
    x = clips(6)
    found = AverageAggregator()(x, counts_mask([6, 4, 1], 6))
    for row, count in enumerate([6, 4, 1]):
        torch.testing.assert_close(found[row], x[row, :count].mean(dim=0))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, False, True]]), "hole"),
        (torch.tensor([[False, False, False]]), "no clip"),
        (torch.ones(1, 2, dtype=torch.bool), "need"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(mask: torch.Tensor, message: str) -> None:
    for module in (AverageAggregator(), aggregator("any")):
        with pytest.raises(ValueError, match=message):
            module(torch.zeros(1, 3, WIDTH), mask)


def test_gradients_reach_every_parameter_and_every_clip() -> None:
    module, x = aggregator("any").train(), clips(4).requires_grad_()
    module(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert x.grad is not None and x.grad.flatten(2).any(dim=2).all()


def test_drop_path_grows_to_the_last_block_and_acts_in_training_only() -> None:
    config = SelfAttentionConfig(num_clips=4, depth=3, heads=2, drop_path=0.4)
    module = SelfAttentionAggregator(config, WIDTH)
    rates = [m.rate for m in module.modules() if m.__class__.__name__ == "DropPath"]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    x = clips(4, videos=64)
    assert torch.equal(module.eval()(x), module(x))
    first, second = (module.train()(x) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_published_start_has_small_weights_and_zero_bias() -> None:
    module = SelfAttentionConfig().build(256)
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    assert all(0.015 < m.weight.std() < 0.025 for m in linear)
    assert all(m.bias is None or not m.bias.any() for m in linear)
    assert sum(m.bias is None for m in linear) == 6
