"""Which nodes an attempt blames, and which ones the next attempt must not get. Pure.

A node is blamed when its slurmd or its agent died under an attempt, or its preflight failed. The
next attempt does without it; one that two attempts blame stays out for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HEARTBEAT_SEC = 15.0  # between an agent's signs of life in nodes/<k>.json
SILENT_SEC = 4 * HEARTBEAT_SEC
KEPT_OUT_AFTER = 2


def silent_nodes(agents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the nodes whose agents fell silent long before the others did.

    Args:
        agents: what `nodes/<k>.json` of one attempt hold.
    """
    newest = max((float(agent.get("time", 0)) for agent in agents), default=0.0)
    return [
        str(agent.get("name"))
        for agent in agents
        if agent.get("state") == "running" and float(agent.get("time", 0)) < newest - SILENT_SEC
    ]


def excluded_nodes(blamed: Sequence[Sequence[str]]) -> list[str]:
    """Return the nodes that the next attempt must not get.

    Args:
        blamed: the nodes that each attempt blames, oldest first.
    """
    counts = Counter(name for names in blamed for name in set(names))
    kept_out = [name for name, count in counts.items() if count >= KEPT_OUT_AFTER]
    return sorted({*kept_out, *(blamed[-1] if blamed else ())})
