"""Search among many keys, against one whole matrix of scores."""

from __future__ import annotations

import pytest
import torch

from egovl.models.retrieval_index import RetrievalIndex, distinct


@pytest.mark.parametrize(
    ("keys", "queries", "part"), [(5000, 70, 1 << 16), (5000, 70, 1000), (300, 3, 64), (40, 2, 64)]
)
def test_the_nearest_keys_are_those_of_the_whole_matrix(keys: int, queries: int, part: int) -> None:
    generator = torch.Generator().manual_seed(keys)
    table = torch.randn(keys, 16, generator=generator)
    asked = torch.randn(queries, 16, generator=generator)
    index = RetrievalIndex(table, part_keys=part, part_queries=32)
    scores, ids = index.search(asked, 15)
    truth, places = (asked @ table.T).topk(15, dim=1)
    torch.testing.assert_close(scores, truth)
    assert torch.equal(ids, places)


def test_more_results_than_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 5; the index has 4 keys"):
        RetrievalIndex(torch.ones(4, 2)).search(torch.ones(1, 2), 5)


def test_queries_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="widths differ"):
        RetrievalIndex(torch.ones(4, 2)).search(torch.ones(1, 3), 2)


def test_the_first_of_equal_names_stays() -> None:
    assert distinct([("a", 1), ("b", 1), ("a", 1), ("a", 2)]) == [0, 1, 3]
