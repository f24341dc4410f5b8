"""Which of a run's checkpoints is the best: one metric watched, ties to the later one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Literal

logger = logging.getLogger(__name__)

Mode = Literal["min", "max", "off"]


class Monitor:
    """Says after each evaluation whether it is the best so far (EgoVLP spec 7.3).

    An equal value counts as better. A metric that an evaluation does not report is named once, and
    nothing is watched from then on. Parity: ``monitor_policy``.

    Args:
        rule: ``min NAME``, ``max NAME`` or ``off``.
        best: the best value of an earlier part of the run.
    """

    def __init__(self, rule: str = "off", best: float | None = None) -> None:
        self.mode, self.metric = parse_rule(rule)
        self.best = best

    def improved(self, metrics: Mapping[str, float]) -> bool:
        """Take an evaluation's metrics; return whether they are the best so far."""
        if self.mode == "off":
            return False
        value = metrics.get(self.metric)
        if value is None:
            logger.warning(
                "no metric %r to watch, only %s: no checkpoint is marked as best",
                self.metric,
                sorted(metrics),
            )
            self.mode = "off"
            return False
        if math.isnan(value):
            return False
        if self.best is not None:
            better = value <= self.best if self.mode == "min" else value >= self.best
            if not better:
                return False
        self.best = value
        return True


def parse_rule(rule: str) -> tuple[Mode, str]:
    """Mode and metric of a rule.

    Raises:
        ValueError: it is neither ``off`` nor a mode and a name.
    """
    words = rule.split()
    if words == ["off"]:
        return "off", ""
    if len(words) == 2 and words[0] in ("min", "max"):
        return ("min" if words[0] == "min" else "max"), words[1]
    raise ValueError(f"monitor {rule!r}: must be 'off', or min or max and a metric's name")
