from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from egovl.losses.classification import classification_loss, keyframe_loss, multi_head_loss


def test_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    target = torch.tensor([2, 0, 3])
    logs = logits.log_softmax(dim=1)
    wanted = torch.full((3, 4), 0.2 / 4)
    wanted[torch.arange(3), target] += 0.8
    expected = -(wanted * logs).sum(dim=1).mean()
    torch.testing.assert_close(classification_loss(logits, target, smoothing=0.2), expected)
    plain = -logs[torch.arange(3), target].mean()
    torch.testing.assert_close(classification_loss(logits, target, smoothing=0.0), plain)


def test_heads_add_up_with_equal_weights() -> None:
    generator = torch.Generator().manual_seed(6)
    heads = [torch.randn(3, classes, generator=generator) for classes in (2, 5, 9)]
    targets = [torch.tensor([0, 1, 1]), torch.tensor([4, 2, 0]), torch.tensor([8, 3, 5])]
    alone = [classification_loss(h, t) for h, t in zip(heads, targets, strict=True)]
    torch.testing.assert_close(multi_head_loss(heads, targets), alone[0] + alone[1] + alone[2])


def test_heads_without_a_target_are_refused() -> None:
    with pytest.raises(ValueError, match="2 heads and 1 targets"):
        multi_head_loss([torch.zeros(1, 2)] * 2, [torch.zeros(1, dtype=torch.int64)])


def test_the_keyframe_loss_is_that_of_clips_with_a_change() -> None:
    logits = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    target, change = torch.tensor([0, 3, 15, 7]), torch.tensor([1, 0, 1, 1])
    kept = change.bool()
    expected = F.cross_entropy(logits[kept], target[kept])
    torch.testing.assert_close(keyframe_loss(logits, target, change), expected)
    legacy = keyframe_loss(logits, target, change, legacy_mean=True)
    torch.testing.assert_close(legacy, F.cross_entropy(logits, target) * 0.75)
    assert keyframe_loss(logits, target, torch.zeros(4)).item() == 0
    every = torch.ones(4)
    torch.testing.assert_close(
        keyframe_loss(logits, target, every), keyframe_loss(logits, target, every, legacy_mean=True)
    )
