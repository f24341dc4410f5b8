"""What a run will cost, from one minute of it: `--forecast` of the launchers.

A calibration is a run like any other, in `runs/forecast/`: same code, same recipe, same resources,
a short time limit. After a minute of steps it is stopped as `python -m jobs stop` does, which also
shows what a checkpoint weighs; then its folder is removed.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.errors import RunError
from jobs.run_folder import RunFolder, create_json, read_json
from jobs.spec import JobSpec, Resources
from jobs.standing import FINAL, find_standing
from jobs.stop import Stop
from jobs.submit import Launched, Place, launch
from jobs.yaml_file import as_mapping, read_yaml

KIND = "forecast"
CALIBRATION_SEC = 60.0
# Of the calibration itself: a short job finds a gap in the queue.
TIME_LIMIT_SEC = 900
_POLL_SEC = 1.0
_DEFAULT_KEPT = 2


@dataclass(frozen=True)
class Calibration:
    """What a minute of a run has shown.

    Attributes:
        first_step: of the measured ones.
        last_step: of the measured ones.
        total_steps: of the whole run.
        seconds: between the ends of both.
        clips_per_sec: as the run itself counts them.
        start_sec: from the agent's start to the end of the first step.
        checkpoint_bytes: of one checkpoint; None if none was written.
        kept: how many of them the recipe keeps.
    """

    first_step: int
    last_step: int
    total_steps: int
    seconds: float
    clips_per_sec: float
    start_sec: float
    checkpoint_bytes: int | None
    kept: int = _DEFAULT_KEPT

    @property
    def step_sec(self) -> float:
        """Seconds of one step."""
        return self.seconds / (self.last_step - self.first_step)


@dataclass(frozen=True)
class Forecast:
    """What the whole run will take.

    Attributes:
        train_sec: of all steps, without evaluations and waiting in the queue.
        device_hours: hours of GPUs, of CPU cores for a job without GPUs, starts included.
        restarts: that the time limit alone makes necessary.
        disk_bytes: most that checkpoints take at a time; None if unknown.
    """

    train_sec: float
    device_hours: float
    restarts: int
    disk_bytes: int | None


def forecast(seen: Calibration, ask: Resources) -> Forecast:
    """Extend a calibration to the whole run with the same resources.

    Raises:
        RunError: if the time limit does not leave time for a single step.
    """
    train_sec = seen.step_sec * seen.total_steps
    useful_sec = ask.time_limit_sec - ask.lead_sec - seen.start_sec
    if useful_sec <= seen.step_sec:
        raise RunError(
            f"a time limit of {ask.time_limit_sec} s ends before the first step: it takes "
            f"{seen.start_sec:.0f} s to start; ask for more with --time"
        )
    attempts = math.ceil(train_sec / useful_sec)
    devices = ask.nodes * (ask.gpus_per_node or ask.cpus_per_node)
    disk = seen.checkpoint_bytes
    return Forecast(
        train_sec=train_sec,
        device_hours=devices * (train_sec + attempts * seen.start_sec) / 3600,
        restarts=attempts - 1,
        # while a new one is written, all those that are kept are still there
        disk_bytes=None if disk is None else disk * (seen.kept + 1),
    )


def calibrate(
    spec: JobSpec,
    cluster: Cluster,
    place: Place,
    executor: str,
    seconds: float = CALIBRATION_SEC,
) -> Calibration:
    """Run the work for `seconds` of steps and look at it.

    Raises:
        JobsError: if it cannot be launched, fails, or takes no two steps; its folder then stays.
    """
    limit = min(spec.resources.time_limit_sec, TIME_LIMIT_SEC)
    ask = replace(spec.resources, time_limit_sec=limit, stop_lead_sec=0)
    short = replace(spec, kind=KIND, resources=ask)
    # the debug executor would run to the end before it answers
    launched = launch(short, cluster, place, "local" if executor == "debug" else executor)
    run = RunFolder(launched.run_dir)
    if launched.state != "queued":
        raise RunError(f"an earlier calibration is in the way: {launched.message}")
    try:
        _watch(run, launched, seconds)
    except KeyboardInterrupt:
        _ask_to_stop(run)
        raise RunError(f"calibration broken off; {run.path} can be removed") from None
    found = read_calibration(run)
    shutil.rmtree(run.path, ignore_errors=True)
    return found


def _watch(run: RunFolder, launched: Launched, seconds: float) -> None:
    """Wait until the run has ended; ask it to, once it has trained for long enough."""
    shown = ""
    stopped = False
    while run.read_state().get("state") not in FINAL:
        records = read_steps(run)
        if records and not stopped and records[-1]["time"] - records[0]["time"] >= seconds:
            _ask_to_stop(run)
            stopped = True
        if find_standing(run).state != "live" and run.read_state().get("state") not in FINAL:
            raise RunError(f"the calibration ended without a word: see {run.path}")
        shown = _show(shown, _progress(run, launched, records, stopped))
        time.sleep(_POLL_SEC)
    if shown:
        print(file=sys.stderr)
    state = run.read_state()
    if state.get("state") not in ("done", "stopped"):
        raise RunError(f"the calibration {state.get('state')}: {state.get('reason')}; {run.path}")


def _ask_to_stop(run: RunFolder) -> None:
    attempt = run.attempt(run.latest_attempt())
    create_json(attempt.stop_json, Stop("user", None, "user", "calibration").to_json())


def _progress(
    run: RunFolder, launched: Launched, records: Sequence[dict[str, Any]], stopped: bool
) -> str:
    if stopped:
        return "calibration: saving a checkpoint"
    if records:
        since = records[-1]["time"] - records[0]["time"]
        return f"calibration: step {records[-1]['step']}, {since:.0f} s"
    return f"calibration: job {launched.job_id} {run.read_state().get('state')}"


def _show(before: str, text: str) -> str:
    """Show a line in place of the one before; on no terminal only what is new."""
    if sys.stderr.isatty():
        print(f"\r{text:<{len(before)}}", end="", file=sys.stderr, flush=True)
    elif text.partition(",")[0] != before.partition(",")[0] and "step" not in before:
        print(text, file=sys.stderr)
    return text


def read_steps(run: RunFolder) -> list[dict[str, Any]]:
    """Return the training lines of `metrics.jsonl`, in their order."""
    try:
        lines = run.metrics_jsonl.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # being written
            continue
        if record.get("kind") == "train":
            records.append(record)
    return records


def read_calibration(run: RunFolder) -> Calibration:
    """Return what a stopped calibration has left in its folder.

    Raises:
        RunError: if it took no two steps at different times.
    """
    records = read_steps(run)
    # lines of several steps are written at once, with the time at which the last of them ended
    ends = sorted({record["time"]: int(record["step"]) for record in records}.items())
    if len(ends) < 2:
        raise RunError(
            f"{run.path}: too few steps to time; lower trainer.log_every, or calibrate by hand"
        )
    timed = ends[1:] if len(ends) > 2 else ends  # the first lines hold the warm-up
    (begin, first_step), (end, last_step) = timed[0], timed[-1]
    rates = sorted(float(record["clips_per_sec"]) for record in records if record["time"] > begin)
    started = (read_json(run.attempt(1).node_json(0)) or {}).get("started", ends[0][0])
    return Calibration(
        first_step=first_step,
        last_step=last_step,
        total_steps=int(records[-1]["steps"]),
        seconds=end - begin,
        clips_per_sec=rates[len(rates) // 2],
        start_sec=max(0.0, ends[0][0] - float(started)),
        checkpoint_bytes=_newest_checkpoint_bytes(run),
        kept=_kept(run.config_yaml),
    )


def _newest_checkpoint_bytes(run: RunFolder) -> int | None:
    step = run.last_commit_step()
    if step is None:
        return None
    folder = run.checkpoints / f"step-{step}"
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _kept(config: Path) -> int:
    if not config.is_file():
        return _DEFAULT_KEPT
    kept = str(as_mapping(read_yaml(config).get("trainer"), str(config)).get("keep_checkpoints"))
    return int(kept) if kept.isdecimal() else _DEFAULT_KEPT


def describe(seen: Calibration, expected: Forecast, ask: Resources) -> str:
    """Return calibration and forecast as lines for people."""
    unit = "GPU" if ask.gpus_per_node else "core"
    disk = "unknown: no checkpoint was written"
    if seen.checkpoint_bytes is not None and expected.disk_bytes is not None:
        disk = (
            f"{spell_bytes(seen.checkpoint_bytes)} a checkpoint, "
            f"{spell_bytes(expected.disk_bytes)} at most ({seen.kept} kept, one being written)"
        )
    lines = {
        "measured": f"steps {seen.first_step} to {seen.last_step} in {seen.seconds:.0f} s, "
        f"{ask.nodes} nodes x {ask.processes_per_node} processes",
        "speed": f"{seen.clips_per_sec:,.1f} clips/s, {seen.step_sec:.3g} s a step",
        "training": f"{seen.total_steps:,} steps: {spell_seconds(expected.train_sec)}, "
        f"{expected.device_hours:,.1f} {unit}-hours (evaluations and queue not counted)",
        "restarts": f"{expected.restarts} by the time limit of "
        f"{spell_seconds(ask.time_limit_sec)}, each {seen.start_sec:.0f} s to the first step; "
        "preemptions come on top",
        "disk": disk,
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def spell_seconds(seconds: float) -> str:
    """Return a duration with its two largest units: `3 d 4 h`, `12 min 5 s`."""
    rest = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def spell_bytes(count: float) -> str:
    """Return a size in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def run_forecast(spec: JobSpec, cluster: Cluster, place: Place, executor: str) -> int:
    """Calibrate, and print what the whole run will take; returns the exit code."""
    seen = calibrate(spec, cluster, place, executor)
    print(describe(seen, forecast(seen, spec.resources), spec.resources))
    return 0
