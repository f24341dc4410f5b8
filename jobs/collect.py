"""Every run below a folder as one row, read once: only what changed since is read again.

A run's folder changes its time when a file in it is renamed into place, as all of them are but
`metrics.jsonl` and the checkpoints; those are looked at as well while a run is not over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from jobs.config_file import flatten_overrides, flatten_part, split_config
from jobs.fork_map import fork_map
from jobs.metrics_file import Curve, parse_metrics
from jobs.run_index import Entry, RunIndex, part_line
from jobs.run_row import MARKS, RunRow, read_bytes, read_run

# Two changes within one tick of a disk's clock have one time: a folder this young is read again.
_TICK_NS = 2_000_000_000
# Records of the pipelines, one file each: which run is which stage.
PIPELINES = ".pipelines"


class _Place(NamedTuple):
    """A folder that may be a run's."""

    folder: str
    kind: str
    path: str


class Collection:
    """The runs below one folder.

    Attributes:
        rows: by kind and collection, the newest last; stages of pipelines at the end.
        problems: what could not be read of the folders above the runs.
    """

    def __init__(self, runs: str, rows: list[RunRow], index: RunIndex, problems: list[str]) -> None:
        self.rows = rows
        self.problems = problems
        self._runs = runs
        self._index = index
        self._asked: dict[tuple[str, ...], dict[str, Any]] = {}

    def part(self, name: str) -> dict[str, Any]:
        """Return the dotted keys of a part of a config."""
        return self._index.parts.get(name, {})

    def config(self, row: RunRow) -> dict[str, Any]:
        """Return a run's config by dotted keys; of one that never started what it was asked."""
        if not row.config:
            words = tuple(row.arguments)
            if words not in self._asked:
                self._asked[words] = flatten_overrides(words)
            return self._asked[words]
        return {key: value for name in row.config for key, value in self.part(name).items()}

    def fingerprint(self) -> str:
        """Return a text that changes when any run does; empty if nothing is remembered."""
        known = self._index.fingerprint()
        return f"{known}-{_change(f'{self._runs}/{PIPELINES}')}" if known else ""

    def curves(self, rows: Iterable[RunRow]) -> list[str]:
        """Return each run's curves as json: {"metric": [steps, values]}, null for nan."""
        known = self._index.load_curves()
        return [known.get(row.path) or self._read_curves(row) for row in rows]

    def _read_curves(self, row: RunRow) -> str:
        try:
            data, _ = read_bytes(f"{self._runs}/{row.path}/metrics.jsonl")
        except OSError:
            return "{}"
        return curves_json(parse_metrics(data).curves)


def collect_runs(
    runs: str | os.PathLike[str], kind: str = "*", name: str = "*", state: str = "*"
) -> list[RunRow]:
    """Return the rows of the runs below a folder, as `collect` does."""
    return collect(runs, kind, name, state).rows


def collect(
    runs: str | os.PathLike[str], kind: str = "*", name: str = "*", state: str = "*"
) -> Collection:
    """Read all runs below a folder.

    Args:
        runs: the folder with `<kind>/<name>` folders; it may be absent.
        kind: shell patterns of the kinds wanted, parted by commas.
        name: the same of the run names; a part of the name is enough.
        state: the same of the states.
    """
    root = os.fspath(runs)
    index = RunIndex(root)
    problems: list[str] = []
    places = list(_find_places(root, problems))
    changed = [place for place in places if not _is_known(place, index.entries.get(place.path))]
    paths = [place.path for place in places]
    if changed:
        lines, curves = fork_map(_read_places, changed)
        index.add(lines)
        problems += index.save(lines, curves, paths)
    rows = [index.entries[path].row for path in paths if path in index.entries]
    stages = _read_stages(root, problems)
    if stages:
        rows = [
            row._replace(collection=stages[row.path][0]) if row.path in stages else row
            for row in rows
        ]
    if (kind, name, state) != ("*", "*", "*"):
        names = ",".join(_anywhere(each) for each in name.split(","))
        rows = [
            row
            for row in rows
            if _matches(row.kind, kind) and _matches(row.name, names) and _matches(row.state, state)
        ]
    rows.sort(key=lambda row: (row.kind, row.collection, row.updated, row.name))
    if stages:  # the stages of a pipeline are of several kinds: they stand together, at the end
        rows.sort(key=lambda row: stages.get(row.path, ("", 0)))
    return Collection(root, rows, index, problems)


def curves_json(curves: dict[str, Curve]) -> str:
    """Return curves as json, in seven digits; a metric with the steps of another names that one."""
    parts: list[str] = []
    owners: dict[tuple[int, ...], str] = {}
    for name, (steps, values) in curves.items():
        key = json.dumps(name)
        owner = owners.setdefault(tuple(steps), key)
        shown = str(steps) if owner is key else owner
        numbers = ("%.7g," * len(values) % tuple(values))[:-1]
        if "n" in numbers:  # nan, inf
            numbers = numbers.replace("nan", "null").replace("inf", "1e999")
        parts.append(f"{key}: [{shown}, [{numbers}]]")
    return f"{{{', '.join(parts)}}}"


def _find_places(root: str, problems: list[str]) -> Iterable[_Place]:
    for name in _folders(root, problems) or ():
        folder = f"{root}/{name}"
        inside = _folders(folder, problems)
        if inside is None:
            continue
        if not inside or not MARKS.isdisjoint(inside) or _holds_run(folder):
            yield _Place(folder, "-", name)
            continue
        for each in inside:
            yield _Place(f"{folder}/{each}", name, f"{name}/{each}")


def _read_stages(root: str, problems: list[str]) -> dict[str, tuple[str, int]]:
    """Return path of a run -> (pipeline, number of the stage) as of the latest launches."""
    try:
        names = sorted(name for name in os.listdir(f"{root}/{PIPELINES}") if name.endswith(".json"))
    except OSError:
        return {}
    stages: dict[str, tuple[str, int]] = {}
    for name in names:
        try:
            facts: Any = json.loads(read_bytes(f"{root}/{PIPELINES}/{name}")[0])
            runs = [str(stage["run"]) for stage in facts["stages"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{PIPELINES}/{name}: not a whole record of a pipeline: {error!r}")
            continue
        for number, run in enumerate(runs):
            stages["/".join(run.rstrip("/").split("/")[-2:])] = (name[:-5], number)
    return stages


def _folders(path: str, problems: list[str]) -> list[str] | None:
    """Return the names of the folders in one, None if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return [each.name for each in entries if each.name[0] != "." and each.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return None


def _holds_run(folder: str) -> bool:
    return any(os.path.isfile(f"{folder}/{name}") for name in ("run.json", "metrics.jsonl"))


def _is_known(place: _Place, entry: Entry | None) -> bool:
    """Return whether what is remembered of a run still holds."""
    if entry is None:
        return False
    try:
        if os.stat(place.folder).st_mtime_ns != entry.folder_time:
            return False
    except OSError:
        return False
    return entry.is_settled == 1 or (
        entry.is_settled == 0
        and _metrics_stamp(place.folder) == (entry.metrics_time, entry.metrics_size)
        and _change(f"{place.folder}/ckpt") == entry.checkpoint_time
    )


def _metrics_stamp(folder: str) -> tuple[int, int]:
    try:
        state = os.stat(f"{folder}/metrics.jsonl")
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size


def _change(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _read_places(places: Sequence[_Place]) -> list[list[str]]:
    """Return lines of the index and lines of curves."""
    import hashlib  # slow to load, and only where something has changed

    parts: dict[str, str] = {}
    lines: list[str] = []
    curves: list[str] = []

    def add_config(text: str) -> list[str]:
        return [parts.get(part) or add_part(part) for part in split_config(text)]

    def add_part(text: str) -> str:
        name = parts[text] = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        lines.append(part_line(name, flatten_part(text)))
        return name

    for place in places:
        changed = _change(place.folder)
        found = read_run(place.folder, place.kind, place.path, add_config)
        if found is None:
            continue
        newest = max(changed, found.metrics_stamp[0], found.checkpoint_stamp)
        is_sure = time.time_ns() - newest > _TICK_NS and not found.is_denied
        is_settled = int(found.is_settled) if is_sure else -1
        stamp = (changed, *found.metrics_stamp, found.checkpoint_stamp, is_settled)
        entry = Entry(*stamp, found.row)
        lines.append(entry.line())
        if found.metrics.curves:
            curves.append(entry.curve_line(curves_json(found.metrics.curves)))
    return [lines, curves]


def _anywhere(pattern: str) -> str:
    return pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"


def _matches(value: str, patterns: str) -> bool:
    return any(fnmatch(value, pattern) for pattern in patterns.split(","))
