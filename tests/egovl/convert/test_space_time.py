from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from egovl.convert.space_time import resize_positions, with_patches
from egovl.convert.unpickle import CheckpointError


def cubic_weight(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0


def cubic_matrix(have: int, want: int) -> Tensor:
    """Rows: what each wanted centre takes of the ones there; the edge repeats."""
    rows = torch.zeros(want, have, dtype=torch.float64)
    for i in range(want):
        place = (i + 0.5) * have / want - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            rows[i, min(max(tap, 0), have - 1)] += cubic_weight(place - tap)
    return rows


@pytest.mark.parametrize(("have", "want"), [(4, 6), (16, 24), (6, 4), (7, 7)])
def test_positions_are_resized_as_a_direct_bicubic_sum_says(have: int, want: int) -> None:
    table = torch.randn(1, 1 + have**2, 5, dtype=torch.float64)
    resized = resize_positions(table, want**2)
    assert torch.equal(resized[:, 0], table[:, 0])
    matrix = cubic_matrix(have, want)
    grid = table[0, 1:].unflatten(0, (have, have))
    direct = torch.einsum("ih,jw,hwd->ijd", matrix, matrix, grid).flatten(0, 1)
    torch.testing.assert_close(resized[0, 1:], direct, atol=1e-12, rtol=1e-12)


def test_a_table_without_a_leading_one_stays_so() -> None:
    state = {"visual.positional_embedding": torch.randn(5, 3), "other": torch.ones(1)}
    resized = with_patches(state, "visual.positional_embedding", 9)
    assert resized["visual.positional_embedding"].shape == (10, 3)
    assert resized["other"] is state["other"]
    with pytest.raises(CheckpointError, match="no spatial positions pos_embed"):
        with_patches(state, "pos_embed", 9)


def test_a_grid_that_is_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="4 patches to 6"):
        resize_positions(torch.zeros(1, 5, 2), 6)
