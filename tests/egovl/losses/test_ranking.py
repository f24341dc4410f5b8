from __future__ import annotations

import pytest
import torch

from egovl.losses.ranking import max_margin
from egovl.losses.similarity import cosine_matrix


def similarity(size: int = 5) -> torch.Tensor:
    return torch.rand(size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fix_norm", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_max_margin_equals_a_loop_over_pairs(fix_norm: bool, weighted: bool) -> None:
    x = similarity()
    weight = torch.tensor([0.1, 1.0, 0.4, 0.0, 0.7]) if weighted else None
    terms = []
    for i in range(5):
        margin = 0.3 * (1.0 if weight is None else float(weight[i]))
        for j in range(5):
            if i != j or not fix_norm:
                terms += [max(0.0, float(margin - x[i, i] + y)) for y in (x[i, j], x[j, i])]
    expected = sum(terms) / len(terms)
    loss = max_margin(x, 0.3, weight=weight, fix_norm=fix_norm)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_max_margin_does_not_depend_on_the_order_of_pairs() -> None:
    x, weight = similarity(), torch.rand(5, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled = max_margin(x[order][:, order], 0.3, weight=weight[order])
    torch.testing.assert_close(max_margin(x, 0.3, weight=weight), shuffled)


def test_well_separated_pairs_cost_nothing_and_pull_nothing() -> None:
    x = torch.eye(4, requires_grad=True)
    loss = max_margin(x, 0.2)
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert not x.grad.any()


def test_shapes_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        max_margin(torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"weight \(4,\).*\[5\]"):
        max_margin(similarity(), weight=torch.ones(4))
    with pytest.raises(ValueError, match="1 pair"):
        max_margin(torch.ones(1, 1))


def test_a_zero_row_is_similar_to_nothing() -> None:
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    x = cosine_matrix(a, torch.tensor([[6.0, 8.0], [4.0, -3.0]]))
    torch.testing.assert_close(x, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_a_zero_row_has_a_finite_gradient() -> None:
    a = torch.zeros(1, 2, requires_grad=True)
    cosine_matrix(a, torch.ones(1, 2)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
