from __future__ import annotations

import math

import pytest

from egovl.engine.monitor import Monitor


def test_an_equal_or_better_value_is_best() -> None:
    monitor = Monitor("max egomcq/inter_video")
    values = [10.0, 9.0, 10.0, 11.0, math.nan]
    found = [monitor.improved({"egomcq/inter_video": v}) for v in values]
    assert found == [True, False, True, True, False]
    assert monitor.best == 11.0
    low = Monitor("min loss", best=0.5)
    assert [low.improved({"loss": v}) for v in (0.6, 0.4)] == [False, True]


def test_a_metric_that_is_not_there_ends_the_watch_loudly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = Monitor("max nothing")
    assert not monitor.improved({"a": 1.0})
    assert "no metric 'nothing' to watch, only ['a']" in caplog.text
    assert monitor.mode == "off"
    assert not monitor.improved({"nothing": 1.0})


@pytest.mark.parametrize("rule", ["", "best", "max", "high x", "min a b"])
def test_a_rule_that_says_nothing_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="'off', or min or max and a metric's name"):
        Monitor(rule)
