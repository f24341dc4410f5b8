"""Which texts stay: threshold, best of a clip, best share of the corpus."""

from __future__ import annotations

import pytest

from egovl.narration.configs import FilterConfig
from egovl.narration.filter import keep_best

RECORDS = [
    {"index": 0, "texts": ["a", "b", "c"], "scores": [0.1, 0.9, 0.5]},
    {"index": 1, "texts": ["d", "e"], "scores": [0.3, 0.2]},
]


def kept(config: FilterConfig) -> list[list[str]]:
    return [record["texts"] for record in keep_best(RECORDS, config)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FilterConfig(min_score=0.3), [["b", "c"], ["d"]]),
        (FilterConfig(best_of_clip=1), [["b"], ["d"]]),
        (FilterConfig(best_fraction=0.4), [["b", "c"], []]),
        (FilterConfig(best_fraction=1.0, best_of_clip=2), [["b", "c"], ["d", "e"]]),
        (FilterConfig(min_score=0.6, best_of_clip=2), [["b"], []]),
    ],
)
def test_every_condition_that_is_set_must_hold(
    config: FilterConfig, expected: list[list[str]]
) -> None:
    assert kept(config) == expected
    for record in keep_best(RECORDS, config):
        assert record["scores"] == sorted(record["scores"], reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "set one or more"), ({"best_fraction": 2.0}, "at most 1"), ({"best_of_clip": 0}, "1")],
)
def test_a_filter_that_says_nothing_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilterConfig(**options)
