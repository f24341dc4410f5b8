"""What the ranks found out about their nodes, once they could compute and reach each other.

The trained program checks itself (see `egovl.engine.fitness`): the agent hands it the limits in one
environment variable and reads a file per rank. Ranks that find any node unfit leave before they
begin, in order; what follows is judged here as it is for the agents' own checks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.environment import PREFLIGHT
from jobs.health import PreflightLimits
from jobs.node import NodeFacts
from jobs.run_folder import AttemptFolder, read_json

LINKS = "links"


def rank_request(folder: AttemptFolder, node: NodeFacts, limits: PreflightLimits) -> dict[str, str]:
    """Return the variable that has the ranks of a node check themselves."""
    asked = {
        "report": str(folder.rank_preflight_json("{rank}")),
        "node": node.index,
        "name": node.name,
        "node_gb_per_sec": limits.node_gb_per_sec,
        "link_gb_per_sec": limits.link_gb_per_sec,
    }
    return {PREFLIGHT: json.dumps(asked)}


def count_reports(folder: AttemptFolder) -> int:
    """Return how many ranks have written what they found."""
    try:
        names = os.listdir(folder.preflight)
    except OSError:
        return 0
    return sum(name.startswith("rank.") and name.endswith(".json") for name in names)


def read_reports(folder: AttemptFolder, world_size: int) -> list[dict[str, Any]] | None:
    """Return the reports of all ranks; None while one is missing."""
    if count_reports(folder) < world_size:
        return None
    found = [read_json(folder.rank_preflight_json(rank)) for rank in range(world_size)]
    reports = [report for report in found if report is not None]
    return reports if len(reports) == world_size else None


def join_reports(
    reports: Iterable[Mapping[str, Any]], limits: PreflightLimits
) -> dict[int, dict[str, Any]]:
    """Return one report per node, in the form of the agents' own.

    A rank that measured a slow link knows two nodes that may be the cause. It is the one all of
    whose links are slow, if there is one; else both.
    """
    nodes: dict[int, dict[str, Any]] = {}
    links: dict[frozenset[int], float] = {}
    for report in reports:
        node = int(report["node"])
        joined = nodes.setdefault(node, {"name": report["name"], "seconds": 0.0, "checks": []})
        joined["seconds"] = max(joined["seconds"], report["seconds"])
        for result in report["checks"]:
            for other, speed in result.get(LINKS, {}).items():
                pair = frozenset((node, int(other)))
                links[pair] = min(speed, links.get(pair, speed))
            is_new = result["name"] not in {each["name"] for each in joined["checks"]}
            if result["state"] in ("failed", "warned") and result["name"] != LINKS and is_new:
                message = f"{result['message']} (rank {report['rank']})"
                joined["checks"].append({**result, "message": message})
    for node in find_slow_nodes(links, limits.link_gb_per_sec):
        measured = {min(pair - {node}): speed for pair, speed in links.items() if node in pair}
        words = ", ".join(
            f"{speed:g} GB/s with {nodes[other]['name']}" if speed else f"wrong sums with {other}"
            for other, speed in sorted(measured.items())
        )
        message = f"{words}; {limits.link_gb_per_sec:g} asked for: look at its network card"
        nodes[node]["checks"].append({"name": LINKS, "state": "failed", "message": message})
    return nodes


def find_slow_nodes(links: Mapping[frozenset[int], float], floor: float) -> Sequence[int]:
    """Return the nodes to blame for links that are slower than the floor, or sum wrongly (0)."""
    slow = {pair for pair, speed in links.items() if speed < floor or speed == 0}
    ends = {node for pair in links for node in pair}
    worst = {node for node in ends if all(pair in slow for pair in links if node in pair)}
    others = (pair for pair in slow if not pair & worst)
    return sorted(worst.union(*others))
