"""Which nodes were blamed for the end of which attempts, over all runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.errors import SubmitError
from jobs.run_facts import RunFacts, read_all
from jobs.run_folder import read_json
from jobs.standing import FINAL
from jobs.status_table import format_duration

_HEAD = ("NODE", "BLAMED", "CAUSES", "LAST", "EXCLUDED BY", "SLURM", "RUNS")


@dataclass(frozen=True)
class NodeBlame:
    """One node.

    Attributes:
        blamed: how many attempts it made end.
        causes: cause -> how many of these.
        last: when the newest of them ended, seconds since the epoch.
        runs: those with such an attempt, as kind/name.
        excluded_by: runs that are not over and do not get the node any more.
        slurm: Slurm's state of the node; empty where it does not know or answer.
    """

    name: str
    blamed: int = 0
    causes: dict[str, int] = field(default_factory=dict[str, int])
    last: float = 0.0
    runs: tuple[str, ...] = ()
    excluded_by: tuple[str, ...] = ()
    slurm: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return every field, by name."""
        return asdict(self)


def read_blame(runs: Path) -> list[NodeBlame]:
    """Return the nodes that any attempt blames or any run excludes, the worst first."""
    found: dict[str, NodeBlame] = {}
    for facts in sorted(read_all(runs), key=lambda facts: (facts.kind, facts.name)):
        for name, cause, ended in _blames(facts):
            node = found.get(name, NodeBlame(name))
            causes = Counter(node.causes) + Counter([cause])
            found[name] = replace(
                node,
                blamed=node.blamed + 1,
                causes=dict(causes.most_common()),
                last=max(node.last, ended),
                runs=_with(node.runs, f"{facts.kind}/{facts.name}"),
            )
        for name in facts.state.get("excluded") or () if facts.written not in FINAL else ():
            node = found.get(name, NodeBlame(name))
            excluded_by = _with(node.excluded_by, f"{facts.kind}/{facts.name}")
            found[name] = replace(node, excluded_by=excluded_by)
    return sorted(found.values(), key=lambda node: (-node.blamed, -node.last, node.name))


def _blames(facts: RunFacts) -> Iterable[tuple[str, str, float]]:
    run = facts.run
    for number in run.attempt_numbers():
        outcome = read_json(run.attempt(number).outcome_json) or {}
        for name in outcome.get("blamed") or ():
            yield str(name), str(outcome.get("cause")), float(outcome.get("ended") or 0.0)


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)


def ask_states(nodes: Sequence[NodeBlame]) -> list[NodeBlame]:
    """Return the nodes with what Slurm says of them, where it answers."""
    if not nodes:
        return []
    try:
        states = slurm.node_states(node.name for node in nodes)
    except SubmitError:
        states = {}
    return [replace(node, slurm=states.get(node.name, "")) for node in nodes]


def render_blame(nodes: Sequence[NodeBlame]) -> str:
    """Return a table."""
    now = time.time()
    table = [_HEAD, *(_cells(node, now) for node in nodes)]
    widths = [max(len(line[i]) for line in table) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def _cells(node: NodeBlame, now: float) -> tuple[str, ...]:
    causes = ", ".join(f"{cause} {count}x" for cause, count in node.causes.items())
    last = f"{format_duration(now - node.last)} ago" if node.last else ""
    excluded = f"{len(node.excluded_by)} run(s)" if node.excluded_by else ""
    return node.name, str(node.blamed), causes, last, excluded, node.slurm, ", ".join(node.runs)
