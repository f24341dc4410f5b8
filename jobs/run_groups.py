"""How runs belong together: repetitions with other seeds, evaluations and what they evaluated."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jobs.collect import Collection
from jobs.metrics_file import HIGH, HIGH_STEP, LAST, LOW, LOW_STEP
from jobs.run_row import RunRow

SEED = "seed"
EVALUATE = "evaluate"
# Where an evaluation's config names what it evaluates.
_CHECKPOINT_KEYS = ("checkpoint", "init.checkpoint", "init.file", "model.checkpoint")
_STEP = re.compile(r"step-(\d+)(?:/|$)")
# Fewer letters in common say nothing.
_SHARED_LEAST = 3
_SIGNATURE = re.compile(r"-[0-9a-f]{8}$")


class Evaluated(NamedTuple):
    """What an evaluation evaluated.

    Attributes:
        path: of the run, empty if it is none of those known.
        step: of the checkpoint, None for the run's last.
        label: for people.
    """

    path: str
    step: int | None
    label: str

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells models apart."""
        return self.path or self.label, self.step


def seed_groups(collection: Collection, rows: Sequence[RunRow]) -> list[list[RunRow]]:
    """Return the rows in groups whose configs differ in `seed` alone, in the order of the first.

    A run that never wrote its config joins the group of those started by the same arguments.
    """
    keys = _GroupKeys(collection, rows)
    groups: dict[tuple[Any, ...], list[RunRow]] = {}
    by_arguments: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for row in rows:
        if row.config:
            key = keys.of(row)
            groups.setdefault(key, []).append(row)
            if row.arguments:
                by_arguments.setdefault(_asked(row), key)
    for row in rows:
        if not row.config:
            asked = _asked(row)
            # without arguments nothing says what it was: it is like no other
            lone = (*asked, "" if row.arguments else row.path)
            groups.setdefault(by_arguments.get(asked, lone), []).append(row)
    order = {row.path: place for place, row in enumerate(rows)}
    return sorted(groups.values(), key=lambda group: order[group[0].path])


def group_label(group: Sequence[RunRow]) -> str:
    """Return what the names of a group have in common."""
    names = Counter(_SIGNATURE.sub("", row.name) for row in group)
    if len(names) == 1:
        return next(iter(names)) if len(group) > 1 else group[0].name
    first, last = min(names), max(names)
    shared = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    if shared >= _SHARED_LEAST:
        return f"{first[:shared].rstrip('-_.')}*"
    return f"{names.most_common(1)[0][0]} and others"


def seed_of(collection: Collection, row: RunRow) -> str:
    """Return a run's seed, empty if nothing says."""
    value = collection.config(row).get(SEED)
    return "" if value is None else str(value)


def find_evaluated(
    collection: Collection, rows: Iterable[RunRow], known: Iterable[RunRow]
) -> dict[str, Evaluated]:
    """Return path of an evaluation -> what it evaluated, as far as its config says."""
    by_path = {row.path: row for row in known}
    named = _Checkpoints(collection)
    return {
        row.path: found
        for row in rows
        if row.kind == EVALUATE and (found := _evaluated(named.of(row), row, by_path)) is not None
    }


def join_evaluations(
    rows: Sequence[RunRow], evaluated: dict[str, Evaluated], *, is_pivot: bool
) -> tuple[list[RunRow], list[str]]:
    """Give runs the metrics of their evaluations.

    Args:
        rows: all of them.
        evaluated: what each evaluation evaluated.
        is_pivot: an evaluation's value wins over the run's own, a checkpoint that is no run gets a
            row under its label, and evaluations have no rows of their own.

    Returns:
        The rows, and a remark for each run that got something.
    """
    metrics: dict[tuple[str, int | None], dict[str, list[Any]]] = defaultdict(dict)
    sources: dict[tuple[str, int | None], list[RunRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.updated):
        target = evaluated.get(row.path)
        if target is None or not row.metrics:
            continue
        key = target.key
        sources[key].append(row)
        metrics[key].update(_at_step(row, target.step))
    by_path: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for key in metrics:
        by_path[key[0]].append(key)
    joined: list[RunRow] = []
    remarks: list[str] = []
    for row in rows:
        keys = by_path.get(row.path, [])
        if is_pivot:
            joined += _pivot_rows(row, keys, metrics, evaluated, sources)
            continue
        if keys:
            found = {name: each for key in keys for name, each in metrics[key].items()}
            missing = sorted(found.keys() - row.metrics.keys())
            if missing:
                given = [source for key in keys for source in sources[key]]
                by = ", ".join(s.path for s in given if not s.metrics.keys().isdisjoint(missing))
                remarks.append(f"{row.path}: {', '.join(missing)} from {by}")
            row = row._replace(metrics={**found, **row.metrics})
        joined.append(row)
    return joined, remarks


def _pivot_rows(
    row: RunRow,
    keys: Sequence[tuple[str, int | None]],
    metrics: dict[tuple[str, int | None], dict[str, list[Any]]],
    evaluated: dict[str, Evaluated],
    sources: dict[tuple[str, int | None], list[RunRow]],
) -> list[RunRow]:
    """Return the rows of one run in a pivot: one, or one for each checkpoint evaluated."""
    target = evaluated.get(row.path)
    if target is not None:
        key = target.key
        if target.path or not sources[key] or sources[key][-1] is not row:
            return []  # its numbers stand with the run, or with a newer evaluation
        return [row._replace(name=target.label, metrics=metrics[key])]
    found = [
        row._replace(
            name=f"{row.name} @{key[1]}" if key[1] is not None else row.name,
            step=row.step if key[1] is None else key[1],
            metrics={**(row.metrics if key[1] is None else {}), **metrics[key]},
        )
        for key in sorted(keys, key=lambda key: -1 if key[1] is None else key[1])
    ]
    return found or [row]


def _at_step(row: RunRow, step: int | None) -> dict[str, list[Any]]:
    """Return an evaluation's extents as of the evaluated run's step: its own is 0."""
    found: dict[str, list[Any]] = {}
    for name, extent in row.metrics.items():
        found[name] = list(extent)
        found[name][LOW_STEP] = found[name][HIGH_STEP] = step
        found[name][LOW] = found[name][HIGH] = extent[LAST]
    return found


def _evaluated(named: Sequence[str], row: RunRow, known: Mapping[str, RunRow]) -> Evaluated | None:
    for value in [*named, *row.parents]:
        parts = value.strip("/").split("/")
        step = _STEP.search(value)
        for at in range(len(parts) - 1, 0, -1):
            path = f"{parts[at - 1]}/{parts[at]}"
            if path in known and path != row.path:
                last = known[path].saved_step or known[path].step
                number = int(step[1]) if step else last
                return Evaluated(path, None if number == last else number, parts[at])
    if named:
        return Evaluated("", None, named[0].rstrip("/").rpartition("/")[2])
    return None


class _Checkpoints:
    """The checkpoints that configs name; each part of a config is looked at once."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._known: dict[str, list[str]] = {}

    def of(self, row: RunRow) -> list[str]:
        """Return what a run's config names."""
        if not row.config:
            return self._find(self._collection.config(row))
        for name in row.config:
            if name not in self._known:
                self._known[name] = self._find(self._collection.part(name))
        return [value for name in row.config for value in self._known[name]]

    def _find(self, flat: Mapping[str, Any]) -> list[str]:
        return [str(flat[key]) for key in _CHECKPOINT_KEYS if flat.get(key)]


def _asked(row: RunRow) -> tuple[str, ...]:
    return (row.kind, *(each for each in row.arguments if not each.startswith(f"{SEED}=")))


class _GroupKeys:
    """What the runs of one group have in common."""

    def __init__(self, collection: Collection, rows: Sequence[RunRow]) -> None:
        self._collection = collection
        self._rows = {row.path: row for row in rows}
        self._evaluated = find_evaluated(collection, rows, rows)
        self._parts: dict[str, str] = {}

    def of(self, row: RunRow) -> tuple[Any, ...]:
        """Return the parts of the config without the seed.

        Evaluations of runs that make a group make one too: their checkpoints count as equal.
        """
        target = self._evaluated.get(row.path)
        parent = self._rows.get(target.path) if target else None
        if parent is None:
            return (row.kind, *map(self._seedless, row.config))
        parts = [self._without_checkpoint(name) for name in row.config]
        return (row.kind, *parts, self.of(parent) if parent.config else parent.path)

    def _seedless(self, name: str) -> str:
        known = self._parts.get(name)
        if known is None:
            is_seed = self._collection.part(name).keys() == {SEED}
            known = self._parts[name] = SEED if is_seed else name
        return known

    def _without_checkpoint(self, name: str) -> Any:
        flat = self._collection.part(name)
        if flat.keys().isdisjoint(_CHECKPOINT_KEYS):
            return self._seedless(name)
        return tuple((key, each) for key, each in flat.items() if key not in _CHECKPOINT_KEYS)
