from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egovl.losses.language import caption_loss


def captions() -> tuple[Tensor, Tensor]:
    """Three captions of 4, 2 and 0 tokens."""
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[3, 1, 4, 6, 0], [5, 2, 0, 0, 0], [0, 0, 0, 0, 0]])
    return logits, labels


def token_entropies(logits: Tensor, labels: Tensor) -> list[list[float]]:
    logs = logits.log_softmax(dim=-1)
    return [
        [-float(logs[i, j, t]) for j, t in enumerate(row) if t != 0]
        for i, row in enumerate(labels.tolist())
    ]


def test_the_mean_runs_over_valid_tokens_or_as_published_over_all_positions() -> None:
    logits, labels = captions()
    total = sum(map(sum, token_entropies(logits, labels)))
    assert caption_loss(logits, labels).loss.item() == pytest.approx(total / 6, abs=1e-6)
    legacy = caption_loss(logits, labels, legacy_mean=True)
    assert legacy.loss.item() == pytest.approx(total / 15, abs=1e-6)


def test_perplexity_is_a_mean_over_captions_that_have_tokens() -> None:
    logits, labels = captions()
    first, second, _ = token_entropies(logits, labels)
    means = torch.tensor([sum(first) / 4, sum(second) / 2])
    torch.testing.assert_close(caption_loss(logits, labels).perplexity, means.exp().mean())
    assert caption_loss(logits, labels, legacy_mean=True).perplexity.isnan()


def test_padding_has_no_influence_and_no_gradient() -> None:
    logits, labels = captions()
    longer = torch.cat([logits, 9 * torch.ones(3, 2, 7)], dim=1).requires_grad_()
    padded = torch.cat([labels, torch.zeros(3, 2, dtype=torch.int64)], dim=1)
    output, golden = caption_loss(longer, padded), caption_loss(logits, labels)
    output.loss.backward()
    torch.testing.assert_close(output.loss, golden.loss)
    torch.testing.assert_close(output.accuracy, golden.accuracy)
    assert longer.grad is not None
    assert not longer.grad[padded == 0].any()
    assert longer.grad[padded != 0].any(dim=-1).all()


def test_accuracy_counts_valid_tokens_only() -> None:
    _, labels = captions()
    logits = torch.nn.functional.one_hot(labels, 7).float()
    logits[1, 1] = logits[1, 1].roll(1)
    assert caption_loss(logits, labels).accuracy.item() == pytest.approx(500 / 6)


def test_parts_with_a_shared_token_count_average_to_the_whole() -> None:
    logits, labels = captions()
    parts = [caption_loss(logits[i : i + 1], labels[i : i + 1], num_tokens=6 / 3) for i in range(3)]
    mean = torch.stack([part.loss for part in parts]).mean()
    torch.testing.assert_close(mean, caption_loss(logits, labels).loss)


def test_a_batch_without_tokens_costs_nothing() -> None:
    logits, labels = captions()
    assert caption_loss(logits[2:], labels[2:]).loss.item() == 0.0


def test_the_padding_id_may_lie_outside_the_vocabulary() -> None:
    logits, labels = captions()
    outside = labels.masked_fill(labels == 0, -100)
    output, golden = caption_loss(logits, outside, pad_id=-100), caption_loss(logits, labels)
    torch.testing.assert_close(output.loss, golden.loss)
    torch.testing.assert_close(output.accuracy, golden.accuracy)


def test_wrong_shapes_and_two_ways_of_dividing_are_refused() -> None:
    logits, labels = captions()
    with pytest.raises(ValueError, match=r"\(3, 7, 5\)"):
        caption_loss(logits.transpose(1, 2), labels)
    with pytest.raises(ValueError, match="num_tokens"):
        caption_loss(logits, labels, num_tokens=3, legacy_mean=True)
