from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egovl.losses.configs import LOSSES, EgoNCEConfig, NormSoftmaxConfig, SslClipConfig
from egovl.losses.ego_nce import ego_nce, norm_softmax, tag_positives
from egovl.losses.pairs import Pairs
from egovl.losses.similarity import cosine_matrix


def embeddings(size: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, width, generator=generator), torch.randn(
        size, width, generator=generator
    )


def tags(size: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(size, classes, generator=generator) < 0.35).float()


def test_a_positive_shares_a_noun_and_a_verb_or_is_the_pair_itself() -> None:
    noun = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
    verb = torch.tensor([[1.0, 0], [1, 1], [1, 0], [0, 0]])
    both = tag_positives(noun, verb)
    assert both.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    by_verb = tag_positives(noun, verb, use_noun=False)
    assert by_verb[2].tolist() == [True, True, True, False]
    assert torch.equal(by_verb, tag_positives(noun, verb, use_noun=False, use_verb=False))
    assert tag_positives(noun, verb, use_verb=False)[0].tolist() == [True, True, False, False]
    assert torch.equal(tag_positives(noun, verb, rows=slice(1, 3)), both[1:3])


def test_without_common_tags_it_is_the_softmax_loss() -> None:
    similarity = cosine_matrix(*embeddings())
    alone = ego_nce(similarity, torch.eye(6, dtype=torch.bool), 0.07)
    torch.testing.assert_close(alone, norm_softmax(similarity, 0.07))


def test_the_loss_is_minus_the_log_of_the_mass_on_positives() -> None:
    similarity, positives = (
        cosine_matrix(*embeddings()),
        tag_positives(tags(6, 3, 1), tags(6, 2, 2)),
    )
    expected = similarity.new_zeros(())
    for x in (similarity, similarity.T):
        mass = (torch.softmax(x / 0.05, dim=1) * positives).sum(dim=1)
        expected = expected - mass.log().mean()
    torch.testing.assert_close(ego_nce(similarity, positives), expected, rtol=1e-5, atol=1e-5)


def test_a_mass_that_a_softmax_rounds_to_zero_still_has_a_loss_and_a_gradient() -> None:
    similarity = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], requires_grad=True)
    loss = ego_nce(similarity, torch.eye(2, dtype=torch.bool), 0.005)
    loss.backward()
    assert loss.item() == pytest.approx(800, rel=1e-5)
    assert similarity.grad is not None
    assert similarity.grad.isfinite().all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positives \(3, 3\)"):
        ego_nce(torch.zeros(2, 2), torch.eye(3, dtype=torch.bool))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_rows_scored_in_parts_average_to_the_whole(name: str) -> None:
    """What the ranks do with ``gather: sharded``."""
    video, text = embeddings()
    sides = {
        "noun": tags(6, 4, 3),
        "verb": tags(6, 3, 4),
        "is_human": torch.arange(6) % 2,
        "relevancy": torch.linspace(0.2, 1.0, 6),
    }
    loss, scale = LOSSES[name]().build(), torch.tensor(9.0)
    assert set(loss.sides) <= set(sides)
    whole = loss(Pairs(video, text, scale, scale / 2, sides=sides))
    parts = []
    for start in (0, 2, 4):
        own = slice(start, start + 2)
        pairs = Pairs(
            video[own], text[own], scale, scale / 2, video, text, offset=start, sides=sides
        )
        parts.append(loss(pairs).loss)
    torch.testing.assert_close(torch.stack(parts).mean(), whole.loss)
    assert 0 <= whole.report["accuracy"].item() <= 100


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_order_of_pairs_does_not_matter(name: str) -> None:
    video, text = embeddings()
    sides = {
        "noun": tags(6, 4, 3),
        "verb": tags(6, 3, 4),
        "is_human": torch.arange(6) % 2,
        "relevancy": torch.linspace(0.2, 1.0, 6),
    }
    order = torch.arange(6).flip(0)  # groups of neighbours, where a loss has them, stay together
    loss, scale = LOSSES[name]().build(), torch.tensor(9.0)
    plain = loss(Pairs(video, text, scale, scale / 2, sides=sides))
    moved = {key: side[order] for key, side in sides.items()}
    other = loss(Pairs(video[order], text[order], scale, scale / 2, sides=moved))
    torch.testing.assert_close(plain.loss, other.loss)


def test_two_temperatures_are_asked_for_by_name() -> None:
    video, text = embeddings()
    pairs = Pairs(video, text, torch.tensor(9.0), sides={"is_human": torch.ones(6)})
    with pytest.raises(ValueError, match=r"model\.pseudo_temperature_init=0\.07"):
        SslClipConfig().build()(pairs)


@pytest.mark.parametrize("config", [EgoNCEConfig, NormSoftmaxConfig])
def test_a_temperature_has_to_be_positive(config: type) -> None:
    with pytest.raises(ValueError, match=r"temperature=0.* above 0"):
        config(temperature=0.0)
