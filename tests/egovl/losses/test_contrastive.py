from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.losses.contrastive import info_nce, ssl_clip


def pairs(size: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(size, width, generator=generator) for _ in range(2)]
    return F.normalize(draw[0], dim=1), F.normalize(draw[1], dim=1)


def test_info_nce_is_the_mean_of_both_directions_in_plain_arithmetic() -> None:
    video, text = pairs(3)
    expected = 0.0
    for a, b in ((video, text), (text, video)):
        for i in range(3):
            scores = [4.0 * float(a[i] @ b[j]) for j in range(3)]
            expected -= (scores[i] - math.log(sum(math.exp(s) for s in scores))) / 6
    assert info_nce(video, text, 4.0).loss.item() == pytest.approx(expected, abs=1e-6)


def test_info_nce_does_not_depend_on_the_order_of_pairs() -> None:
    video, text = pairs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain, shuffled = info_nce(video, text, 9.0), info_nce(video[order], text[order], 9.0)
    torch.testing.assert_close(plain.loss, shuffled.loss)
    torch.testing.assert_close(plain.accuracy, shuffled.accuracy)


def test_rows_scored_in_parts_average_to_the_whole() -> None:
    video, text = pairs()
    is_human = torch.tensor([1, 0, 0, 1, 1, 0])
    scales = torch.tensor(9.0), torch.tensor(4.0)
    parts, mixed = [], []
    for start in (0, 2, 4):
        own = slice(start, start + 2)
        where = {"all_video": video, "all_text": text, "offset": start}
        parts.append(info_nce(video[own], text[own], 9.0, **where))
        mixed.append(ssl_clip(video[own], text[own], is_human, *scales, **where))
    whole, whole_mixed = info_nce(video, text, 9.0), ssl_clip(video, text, is_human, *scales)
    for some, one in ((parts, whole), (mixed, whole_mixed)):
        torch.testing.assert_close(torch.stack([p.loss for p in some]).mean(), one.loss)
        torch.testing.assert_close(torch.stack([p.accuracy for p in some]).mean(), one.accuracy)


def test_accuracy_counts_videos_whose_text_is_first() -> None:
    video = torch.eye(4)
    text = video[[0, 1, 3, 2]]
    output = info_nce(video, text, 2.0)
    assert output.accuracy.item() == 50.0
    assert not output.accuracy.requires_grad


def test_ssl_with_one_kind_or_one_temperature_is_info_nce() -> None:
    video, text = pairs()
    scale, other = torch.tensor(9.0), torch.tensor(4.0)
    for flags, golden in ((torch.ones(6), 9.0), (torch.zeros(6), 4.0)):
        loss = ssl_clip(video, text, flags, scale, other).loss
        torch.testing.assert_close(loss, info_nce(video, text, golden).loss)
    mixed = ssl_clip(video, text, torch.arange(6) % 2, scale, scale).loss
    torch.testing.assert_close(mixed, info_nce(video, text, 9.0).loss)


def test_ssl_scales_each_pair_by_its_kinds() -> None:
    video, text = pairs(3)
    a, b = 9.0, 4.0
    flags = torch.tensor([True, False, True])
    scales = torch.tensor([[a, 6.0, a], [6.0, b, 6.0], [a, 6.0, a]])
    logits = scales * (video @ text.T)
    target = torch.arange(3)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    output = ssl_clip(video, text, flags, torch.tensor(a), torch.tensor(b))
    torch.testing.assert_close(output.loss, expected)
    assert (output.num_human.item(), output.num_pseudo.item()) == (2, 1)


def test_ssl_learns_both_temperatures() -> None:
    video, text = pairs()
    scale = torch.tensor(9.0, requires_grad=True)
    pseudo = torch.tensor(4.0, requires_grad=True)
    ssl_clip(video, text, torch.arange(6) % 2, scale, pseudo).loss.backward()
    assert scale.grad is not None
    assert pseudo.grad is not None
    assert min(abs(scale.grad.item()), abs(pseudo.grad.item())) > 1e-4


def test_a_kind_without_rows_has_no_accuracy() -> None:
    video, text = pairs()
    output = ssl_clip(video, text, torch.ones(6), torch.tensor(9.0), torch.tensor(4.0))
    assert output.accuracy_pseudo.isnan()
    torch.testing.assert_close(output.accuracy_human, output.accuracy)


def test_flags_must_cover_all_candidates() -> None:
    video, text = pairs()
    with pytest.raises(ValueError, match=r"\(2,\).*\[6\]"):
        ssl_clip(video, text, torch.ones(2), torch.tensor(9.0), torch.tensor(4.0))


def test_half_precision_embeddings_are_compared_in_float32_under_autocast() -> None:
    video, text = pairs()
    golden = info_nce(video.bfloat16().float(), text.bfloat16().float(), 9.0).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(video.bfloat16(), text.bfloat16(), 9.0).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, golden, rtol=1e-6, atol=1e-6)
