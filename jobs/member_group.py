"""What a run waits for where a stage of its pipeline is a sweep: its members, and which is best.

The members are runs like any other; the group says whether some of them may fail, and by which
metric the best one is found. Whoever starts first after them links it, once: what comes later
reads from that link, whose path is known before any member has begun.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import RunError, unknown_name
from jobs.run_folder import RunFolder, read_json
from jobs.standing import FINAL

MODES = ("max", "min")


@dataclass(frozen=True)
class Best:
    """How the best member is found: its result's metric, and whether more (max) is better."""

    metric: str
    mode: str = "max"


@dataclass(frozen=True)
class MemberGroup:
    """The members of one sweep.

    Attributes:
        members: run folders, in the sweep's order.
        skips_failed: whether it is enough that one of them is done once all are over.
        best: None where nobody asks for it.
        link: where the best one is linked.
    """

    members: tuple[Path, ...]
    skips_failed: bool = False
    best: Best | None = None
    link: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "members": [str(path) for path in self.members],
            "skips_failed": self.skips_failed,
            "best": vars(self.best) if self.best else None,
            "link": str(self.link) if self.link else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MemberGroup:
        """Read what `to_json` made."""
        best, link = values["best"], values["link"]
        return cls(
            members=tuple(Path(path) for path in values["members"]),
            skips_failed=bool(values["skips_failed"]),
            best=Best(**best) if best else None,
            link=Path(link) if link else None,
        )


def make_group(
    members: Sequence[Path], best: Best | None, folder: Path, name: str, *, skips_failed: bool
) -> MemberGroup:
    """Return the group of some members; their names and the question name its link in `folder`."""
    if best is None:
        return MemberGroup(tuple(members), skips_failed)
    key = json.dumps([[path.name for path in members], vars(best), skips_failed])
    link = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return MemberGroup(tuple(members), skips_failed, best, link)


def find_best(group: MemberGroup) -> tuple[Path, float]:
    """Return the best of the members that are done, and its value; of equal ones the first.

    Raises:
        RunError: if none of them has the metric as a finite number.
    """
    assert group.best is not None
    metric, mode = group.best.metric, group.best.mode
    known: set[str] = set()
    found: list[tuple[float, Path]] = []
    for member in group.members:
        result = read_json(RunFolder(member).result_json) or {}
        metrics: dict[str, Any] = {"train_loss": result.get("train_loss")}
        metrics |= result.get("metrics") or {}
        known |= {name for name, value in metrics.items() if value is not None}
        value = metrics.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((float(value), member))
    if not found and metric in known:
        raise RunError(f"{metric} is no finite number in any of {len(group.members)} runs")
    if not found:
        raise RunError(
            f"no best of {len(group.members)} runs: " + unknown_name("metric", metric, known)
        )
    value = (max if mode == "max" else min)(value for value, _ in found)
    return next(member for each, member in found if each == value), value


def link_best(group: MemberGroup) -> Path | None:
    """Link the best member unless that was done before; None where nobody asks for it.

    Raises:
        RunError: if there is none.
    """
    if group.link is None:
        return None
    if not group.link.is_symlink():
        best, _ = find_best(group)
        group.link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another run was first, and has found the same
            group.link.symlink_to(os.path.relpath(best, group.link.parent))
    return group.link.resolve()


def groups_of(run: RunFolder) -> list[MemberGroup]:
    """Return the sweeps that a run comes after."""
    facts = read_json(run.run_json) or {}
    return [MemberGroup.from_json(values) for values in facts.get("groups", ())]


def unfinished(parents: Iterable[RunFolder], groups: Iterable[MemberGroup]) -> list[RunFolder]:
    """Return the parents without which a run cannot start yet, or ever."""
    states = {each.path: str(each.read_state().get("state")) for each in parents}
    late = {path for path, state in states.items() if state != "done"}
    for group in groups:
        if group.skips_failed and not late.issuperset(group.members):
            late -= {path for path in group.members if states.get(path) in FINAL}
    return [RunFolder(path) for path in states if path in late]
