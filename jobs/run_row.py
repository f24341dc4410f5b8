"""One run as a row of the tables: what it is, how far it came, what it scored.

Reads `run.json`, `state.json`, `result.json`, `metrics.jsonl`, `config.yaml` and the COMMIT marks;
anything may be missing, half written, damaged or of a newer version: the row says so in `problems`
and the rest is shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from jobs.metrics_file import (
    HIGH,
    HIGH_STEP,
    LAST,
    LOSS,
    LOW,
    LOW_STEP,
    Extent,
    RunMetrics,
    is_lower_better,
    parse_metrics,
)

# The versions of run.json and result.json that are understood whole.
SCHEMA = 1
STATES = (
    *("done", "running", "queued", "waiting", "stopped", "failed", "cancelled", "incomplete"),
)
FINAL = frozenset(("done", "stopped", "failed", "cancelled"))
MARKS = frozenset(
    ("run.json", "state.json", "result.json", "metrics.jsonl", "config.yaml", "attempts", "ckpt")
)
_RESULT_KEYS = frozenset(("schema", "step", "attempt", "seconds", "metrics", "train_loss"))
_BLOCK = 1 << 14
_DENIED = "cannot read "
_ARRAY_LETTERS = 8


class RunRow(NamedTuple):
    """One run, of plain json values.

    Attributes:
        kind: first folder below `runs`, "-" for a run that lies there itself.
        name: the run folder's name.
        path: of the run's folder, below the folder of all runs.
        state: one of `STATES`, or the word of a newer version; `incomplete` if nothing says.
        cause: why it stopped or failed, in one word.
        reason: the same in a sentence.
        step: the last step reached, None if it never made one.
        steps: how many it is to make, None if nothing says.
        saved_step: step of the newest complete checkpoint.
        attempts: how many there were.
        hours: of training, over all attempts.
        updated: last sign of life, seconds since 1970.
        loss: last training loss.
        metrics: metric -> (last, lowest, its step, highest, its step), losses apart.
        starts: (attempt, its first step, why the attempt before ended).
        config: names of the parts of its config.
        arguments: of the program that it ran.
        code: hash of the code that it ran.
        collection: the pipeline or, by its id, the array of a sweep that it belongs to.
        parents: paths of the runs that it started from, as the launcher wrote them.
        facts: what else its result says: hashes, versions, counts.
        problems: what could not be read.
    """

    kind: str
    name: str
    path: str
    state: str = "incomplete"
    cause: str = ""
    reason: str = ""
    step: int | None = None
    steps: int | None = None
    saved_step: int | None = None
    attempts: int = 0
    hours: float = 0.0
    updated: float = 0.0
    loss: float | None = None
    metrics: Mapping[str, Extent] = {}
    starts: list[tuple[int, int, str]] = []  # noqa: RUF012 - fields of a tuple stay as they are
    config: list[str] = []  # noqa: RUF012
    arguments: list[str] = []  # noqa: RUF012
    code: str = ""
    collection: str = ""
    parents: list[str] = []  # noqa: RUF012
    facts: Mapping[str, Any] = {}
    problems: list[str] = []  # noqa: RUF012

    @property
    def last(self) -> dict[str, float]:
        """Metric -> final value, or the newest one of an unfinished run."""
        return {name: extent[LAST] for name, extent in self.metrics.items()}

    @property
    def best(self) -> dict[str, float]:
        """Metric -> best value on the way: the lowest of losses and errors, else the highest."""
        return {name: best_of(name, extent)[0] for name, extent in self.metrics.items()}


class RunFiles(NamedTuple):
    """What one reading of a run folder gave.

    Attributes:
        row: the run.
        metrics: with the curves, which a row does not keep.
        metrics_stamp: (mtime in ns, size) of `metrics.jsonl`, zeros without one.
        checkpoint_stamp: mtime in ns of the folder of checkpoints.
        is_settled: nothing will change unless the folder itself does.
        is_denied: something is there that may not be read.
    """

    row: RunRow
    metrics: RunMetrics
    metrics_stamp: tuple[int, int]
    checkpoint_stamp: int
    is_settled: bool
    is_denied: bool


def best_of(name: str, extent: Extent, better: str = "") -> tuple[float, int | None]:
    """Return the best value of a metric and its step; `better` is min, max or by the name."""
    is_low = better == "min" if better else is_lower_better(name)
    return (extent[LOW], extent[LOW_STEP]) if is_low else (extent[HIGH], extent[HIGH_STEP])


def read_run(
    folder: str, kind: str, path: str, add_config: Callable[[str], list[str]]
) -> RunFiles | None:
    """Read one run folder; None if nothing in it belongs to a run.

    Args:
        folder: where it lies.
        kind: of run.
        path: the folder below the folder of all runs.
        add_config: takes the text of a config, returns the names of its parts; raises ValueError.
    """
    problems: list[str] = []
    run, _ = _read_object(folder, "run.json", problems)
    state, state_time = _read_object(folder, "state.json", problems)
    result, result_time = _read_object(folder, "result.json", problems)
    metrics, stamp = _read_metrics(folder, problems)
    config = _read_config(folder, problems, add_config)
    if not (run or state or result or metrics.extents or config or problems) and not _is_run(
        folder, problems
    ):
        return None
    _note_schema(run, result, problems)
    word = "done" if result else _text(state.get("state")) or "incomplete"
    saved, checkpoint_stamp = _newest_checkpoint(folder)
    last_write = max(state_time, result_time)
    arguments = _mapping(run.get("spec")).get("arguments")
    row = RunRow(
        kind=kind,
        name=path.rpartition("/")[2],
        path=path,
        state=word,
        cause=_text(state.get("cause")),
        reason=_text(state.get("reason")) or _text(state.get("message")),
        step=_largest(metrics.step, saved, _count(result.get("step")), _count(state.get("step"))),
        steps=metrics.steps,
        saved_step=saved,
        attempts=max(_count(state.get("attempt")) or 0, len(metrics.starts)) or _attempts(folder),
        hours=metrics.hours or (_number(result.get("seconds")) or 0.0) / 3600,
        updated=max(metrics.updated, _time(state.get("updated")), _time(run.get("created")))
        or max(last_write, stamp[0]) / 1e9,
        loss=_loss(result, metrics),
        metrics=_join_result(metrics, result),
        starts=_starts(folder, metrics),
        config=config,
        arguments=[str(each) for each in cast("list[Any]", arguments)]
        if isinstance(arguments, list)
        else [],
        code=_text(run.get("snapshot_hash"))[:8],
        collection=_collection(run),
        parents=_parents(run),
        facts={key: each for key, each in result.items() if key not in _RESULT_KEYS},
        problems=problems,
    )
    is_settled = word in FINAL and stamp[0] <= last_write + 5e9
    is_denied = any(problem.startswith(_DENIED) for problem in problems)
    return RunFiles(row, metrics, stamp, checkpoint_stamp, is_settled, is_denied)


def read_bytes(path: str) -> tuple[bytes, int]:
    """Return the content of a file and its mtime in ns; raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        parts = [os.read(handle, _BLOCK)]
        if len(parts[0]) == _BLOCK:
            while part := os.read(handle, 1 << 24):
                parts.append(part)
        return b"".join(parts), os.fstat(handle).st_mtime_ns
    finally:
        os.close(handle)


def _read_object(folder: str, name: str, problems: list[str]) -> tuple[dict[str, Any], int]:
    try:
        data, written = read_bytes(f"{folder}/{name}")
        values: Any = json.loads(data.decode())
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        problems.append(_denial(name, error))
        return {}, 0
    except (ValueError, RecursionError) as error:
        problems.append(f"{name}: {error}")
        return {}, 0
    if not isinstance(values, dict):
        problems.append(f"{name}: holds no object")
        return {}, 0
    return cast("dict[str, Any]", values), written


def _read_metrics(folder: str, problems: list[str]) -> tuple[RunMetrics, tuple[int, int]]:
    try:
        data, written = read_bytes(f"{folder}/metrics.jsonl")
    except FileNotFoundError:
        return RunMetrics({}, {}), (0, 0)
    except OSError as error:
        problems.append(_denial("metrics.jsonl", error))
        return RunMetrics({}, {}), (0, 0)
    metrics = parse_metrics(data)
    if metrics.damaged:
        lines = f"{metrics.damaged} damaged line(s), the first is line {metrics.first_damaged}"
        problems.append(f"metrics.jsonl: {lines}")
    return metrics, (written, len(data))


def _read_config(
    folder: str, problems: list[str], add_config: Callable[[str], list[str]]
) -> list[str]:
    try:
        return add_config(read_bytes(f"{folder}/config.yaml")[0].decode())
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(_denial("config.yaml", error))
    except (ValueError, RecursionError) as error:
        problems.append(f"config.yaml: {error}")
    return []


def _denial(name: str, error: OSError) -> str:
    return f"{_DENIED}{name}: {error.strerror}"


def _is_run(folder: str, problems: list[str]) -> bool:
    try:
        return not MARKS.isdisjoint(os.listdir(folder))
    except FileNotFoundError:
        return False  # deleted this moment
    except OSError as error:
        problems.append(_denial("the folder", error))
        return True


def _note_schema(run: Mapping[str, Any], result: Mapping[str, Any], problems: list[str]) -> None:
    for name, values in (("run.json", run), ("result.json", result)):
        schema = values.get("schema", SCHEMA)
        if schema != SCHEMA:
            note = f"version {schema}, this program knows {SCHEMA}: shown as far as understood"
            problems.append(f"{name}: {note}")


def _join_result(metrics: RunMetrics, result: Mapping[str, Any]) -> dict[str, Extent]:
    """Return the extents with the final values of the result as their last ones."""
    joined = {name: extent for name, extent in metrics.extents.items() if not name.startswith(LOSS)}
    step = _count(result.get("step"))
    for name, value in _mapping(result.get("metrics")).items():
        number = _number(value)
        if number is None:
            continue
        old = joined.get(name)
        extent = joined[name] = [number, number, step, number, step]
        if old is not None and old[LOW] <= number:
            extent[LOW], extent[LOW_STEP] = old[LOW], old[LOW_STEP]
        if old is not None and old[HIGH] >= number:
            extent[HIGH], extent[HIGH_STEP] = old[HIGH], old[HIGH_STEP]
    return joined


def _loss(result: Mapping[str, Any], metrics: RunMetrics) -> float | None:
    loss = _number(result.get("train_loss"))
    if loss is None and LOSS in metrics.extents:
        return metrics.extents[LOSS][LAST]
    return loss


def _starts(folder: str, metrics: RunMetrics) -> list[tuple[int, int, str]]:
    """Return the attempts, each after the first with the cause that ended the one before."""
    if len(metrics.starts) < 2:
        return [(number, step, "") for number, step in metrics.starts]
    found: list[tuple[int, int, str]] = []
    before = 0
    for number, step in metrics.starts:
        outcome: dict[str, Any] = {}
        if before:
            outcome, _ = _read_object(f"{folder}/attempts/{before}", "outcome.json", [])
        found.append((number, step, _text(outcome.get("cause"))))
        before = number
    return found


def _newest_checkpoint(folder: str) -> tuple[int | None, int]:
    """Return the newest step with a COMMIT mark, and when the folder of checkpoints changed."""
    try:
        changed = os.stat(f"{folder}/ckpt").st_mtime_ns
        names = os.listdir(f"{folder}/ckpt")
    except OSError:
        return None, 0
    steps = [int(name[5:]) for name in names if name[:5] == "step-" and name[5:].isdecimal()]
    for step in sorted(steps, reverse=True):
        if os.path.isfile(f"{folder}/ckpt/step-{step}/COMMIT"):
            return step, changed
    return None, changed


def _attempts(folder: str) -> int:
    try:
        return sum(name.isdecimal() for name in os.listdir(f"{folder}/attempts"))
    except OSError:
        return 0


def _collection(run: Mapping[str, Any]) -> str:
    """Return the array that a run is a member of, by the first letters of its folder's name."""
    return _text(run.get("array")).rstrip("/").rpartition("/")[2][:_ARRAY_LETTERS]


def _parents(run: Mapping[str, Any]) -> list[str]:
    value = run.get("parents")
    paths = cast("list[Any]", value) if isinstance(value, list) else []
    return [each for each in paths if isinstance(each, str)]


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _time(value: Any) -> float:
    return _number(value) or 0.0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
