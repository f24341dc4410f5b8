"""Uncovered intervals: what the rule says, whatever the annotations."""

from __future__ import annotations

import random

import pytest

from egovl.narration.clips import Place, uncovered
from egovl.narration.configs import UncoveredConfig

RULE = UncoveredConfig(min_sec=1.0, max_sec=4.0)


def test_gaps_are_cut_into_equal_clips_within_the_limit() -> None:
    annotated = [("a", 10.0, 12.0), ("a", 11.0, 13.0), ("a", 13.5, 14.0), ("a", 20.0, 21.0)]
    assert uncovered(annotated, RULE) == [
        Place("a", 0.0, pytest.approx(10 / 3)),
        Place("a", pytest.approx(10 / 3), pytest.approx(20 / 3)),
        Place("a", pytest.approx(20 / 3), 10.0),
        Place("a", 14.0, 17.0),
        Place("a", 17.0, 20.0),
    ]


def test_found_clips_cover_all_long_gaps_and_nothing_annotated() -> None:
    draw = random.Random(0)
    for _ in range(50):
        annotated = []
        for uid in "ab":
            starts = [draw.uniform(0, 60) for _ in range(draw.randint(1, 9))]
            annotated += [(uid, start, start + draw.uniform(0.1, 5)) for start in starts]
        found = uncovered(annotated, RULE)
        assert all(0 < place.end_sec - place.start_sec <= RULE.max_sec + 1e-9 for place in found)
        for uid in "ab":
            taken = [(a, b) for video, a, b in annotated if video == uid]
            last = max(b for _, b in taken)
            for step in range(int(last * 20)):
                moment = step / 20
                covered = any(a <= moment < b for a, b in taken)
                hits = sum(p.video_uid == uid and p.start_sec <= moment < p.end_sec for p in found)
                assert hits == (0 if covered else _is_long(taken, moment))


def _is_long(taken: list[tuple[float, float]], moment: float) -> int:
    begin = max([b for _, b in taken if b <= moment], default=0.0)
    # an annotation that began earlier and ends later is no gap's edge
    end = min(a for a, _ in taken if a > moment)
    return int(end - max(begin, 0.0) >= RULE.min_sec)


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = [("a", 5.0, 6.0), ("a", 1.0, 2.0), ("a", 9.0, 9.5)]
    assert uncovered(rows, RULE) == uncovered(sorted(rows), RULE)


def test_a_rule_that_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < min <= max"):
        UncoveredConfig(min_sec=5, max_sec=4)
