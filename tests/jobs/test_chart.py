from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jobs.chart import HEIGHT, WIDTH, line_chart, nice_ticks, sparkline


@pytest.mark.parametrize(
    ("low", "high"), [(0, 600), (20, 95.3), (-1, 1), (5, 5), (0, 0), (1e-9, 3e-9), (0, 1e9)]
)
def test_ticks_enclose_the_range_in_round_even_steps(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 5)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-2)


def test_curves_stay_inside_the_drawing_and_gaps_stay_gaps() -> None:
    curve = [(0, 1.0), (10, 50.0), (20, math.nan), (30, 2.0), (40, 3.0), (50, math.inf)]
    svg = ElementTree.fromstring(line_chart("a < b & c", [("one & two", curve)]))
    lines = svg.findall("polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    for line in lines:
        for x, y in re.findall(r"([-\d.]+),([-\d.]+)", line.attrib["points"]):
            assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT
    assert len(svg.findall("circle")) == 4
    assert svg.findtext("title") == "a < b & c"


def test_nothing_finite_is_no_chart() -> None:
    assert line_chart("x", [("a", []), ("b", [(1, math.nan)])]) == ""
    assert sparkline([(1, 2.0), (2, math.nan)]) == ""


def test_a_sparkline_is_well_formed_even_when_flat() -> None:
    svg = ElementTree.fromstring(sparkline([(1, 2.0), (5, 2.0), (9, 2.0)]))
    assert len(svg[0].attrib["points"].split()) == 3
