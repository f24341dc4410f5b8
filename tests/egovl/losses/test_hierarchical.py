"""MIL-NCE against its formula, terms between parents, drawn children."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from egovl.losses.configs import ChildNCEConfig, EgoNCEConfig, InfoNCEConfig, NormSoftmaxConfig
from egovl.losses.hierarchical import Family, child_loss, draw_children, mil_nce, parent_loss
from egovl.losses.similarity import cosine_matrix


def by_definition(x: Tensor, parents: int, temperature: float) -> Tensor:
    rows, columns = x.shape
    block = torch.ones(rows // parents, columns // parents)
    own = torch.kron(torch.eye(parents), block).double()
    by_row, by_column = ((y.double() / temperature).softmax(dim=1) for y in (x, x.T))
    return -(own * by_row).sum(1).log().mean() - (own.T * by_column).sum(1).log().mean()


@pytest.mark.parametrize(("rows", "columns", "parents"), [(4, 12, 4), (8, 8, 2), (9, 3, 3)])
def test_mil_nce_is_its_formula(rows: int, columns: int, parents: int) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    expected = by_definition(x, parents, 0.5)
    torch.testing.assert_close(mil_nce(x, parents, 0.5).double(), expected, rtol=1e-5, atol=1e-5)


def test_mil_nce_of_far_apart_scores_stays_finite() -> None:
    x = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]) * 100
    assert mil_nce(x, 2).isfinite()


def test_mil_nce_refuses_rows_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"5 rows and 6 columns.*3 parents"):
        mil_nce(torch.zeros(5, 6), 3)


def family(videos: int = 4, children: int = 3) -> Family:
    draw = torch.Generator().manual_seed(2)
    tags = torch.zeros(videos, 5)
    return Family(
        parents={
            name: torch.randn(videos, 6, generator=draw)
            for name in ("summary", "video_parent", "text_parent")
        },
        children={
            name: torch.randn(videos, children, 6, generator=draw)
            for name in ("clips", "narrations")
        },
        scale=torch.tensor(10.0),
        sides={"noun": tags, "verb": tags},
    )


def test_each_term_compares_what_its_name_says() -> None:
    given, config = family(), NormSoftmaxConfig()
    found = parent_loss(given, ("text_summary", "video_summary", "text_video"), config.build())
    from egovl.losses.ego_nce import norm_softmax

    parents = given.parents
    for term, rows, columns in (
        ("text_summary", "text_parent", "summary"),
        ("video_summary", "video_parent", "summary"),
        ("text_video", "text_parent", "video_parent"),
    ):
        expected = norm_softmax(cosine_matrix(parents[rows], parents[columns]))
        torch.testing.assert_close(found[term], expected)


def test_without_tags_egonce_of_parents_is_the_plain_softmax_loss() -> None:
    terms = ("text_summary", "video_summary")
    by_tags = parent_loss(family(), terms, EgoNCEConfig().build())
    plain = parent_loss(family(), terms, NormSoftmaxConfig().build())
    for term in terms:
        torch.testing.assert_close(by_tags[term], plain[term])


def test_a_learned_temperature_reaches_the_terms() -> None:
    terms, loss = ("video_summary",), InfoNCEConfig().build()
    warm = family()
    cold = Family(warm.parents, warm.children, torch.tensor(1.0), warm.sides)
    assert parent_loss(warm, terms, loss) != parent_loss(cold, terms, loss)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ChildNCEConfig(), set()),
        (ChildNCEConfig(intra=True), {"mil_nce_intra"}),
        (ChildNCEConfig(inter=True), {"mil_nce_inter"}),
        (ChildNCEConfig(intra=True, inter=True), {"mil_nce_intra", "mil_nce_inter"}),
    ],
)
def test_child_losses_are_those_asked_for(config: ChildNCEConfig, names: set[str]) -> None:
    given = family()
    found = child_loss(given, config)
    assert set(found) == names
    kinds = {
        "mil_nce_intra": (("video_parent", "clips"), ("text_parent", "narrations")),
        "mil_nce_inter": (("video_parent", "narrations"), ("text_parent", "clips")),
    }
    for name in names:
        expected = sum(
            by_definition(
                cosine_matrix(given.parents[parent], given.children[child].flatten(0, 1)), 4, 0.05
            )
            for parent, child in kinds[name]
        )
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-5)


def test_children_are_drawn_once_each_and_never_more_than_there_are() -> None:
    places = draw_children(16, 8, random.Random(0).sample)
    assert len(set(places)) == 8 and set(places) <= set(range(16))
    assert sorted(draw_children(3, 8, random.Random(0).sample)) == [0, 1, 2]
