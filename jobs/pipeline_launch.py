"""Launch the stages of a pipeline that are neither done nor at work, and show how they stand.

On Slurm all stages are queued at once, each behind its parents (`jobs.chain`). On this machine one
process runs them in order (`jobs.local_pipeline`). The record `runs/.pipelines/<name>.json` says
which run each stage was in the latest launch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.check_many import judge
from jobs.cluster import Cluster
from jobs.controller import controller_pid, start_controller
from jobs.errors import ConfigError, RunError, SubmitError
from jobs.local_pipeline import run_stages
from jobs.pipeline import Pipeline, Stage, fill_references, stand_in_references
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.snapshot import Snapshot, take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.standing import FINAL, find_standing
from jobs.submit import Place, check_request, launch_copy, run_folder_of

PIPELINES = ".pipelines"


@dataclass(frozen=True)
class Planned:
    """A stage with its references filled in.

    Attributes:
        spec: None for a stage that is taken from an earlier launch as it is.
    """

    name: str
    run: RunFolder
    parents: tuple[RunFolder, ...]
    spec: JobSpec | None


@dataclass(frozen=True)
class StageRow:
    """How a stage stands.

    Attributes:
        state: of its run; waiting where that has not begun; lost if it is gone without a word.
    """

    name: str
    state: str
    run: Path
    step: int | None = None
    job_id: str = ""
    reason: str = ""


class Record:
    """What is written down of a pipeline's latest launch."""

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / PIPELINES / f"{name}.json"

    def read(self) -> dict[str, Any]:
        """Return the record.

        Raises:
            RunError: if the pipeline was never launched.
        """
        facts = read_json(self.path)
        if facts is None:
            raise RunError(
                f"{self.path} is not there: pipeline {self.path.stem} was never launched"
            )
        return facts

    def controller(self) -> int | None:
        """Return the process that runs the stages on this machine, if it lives."""
        return controller_pid(read_json(self.path) or {})


def plan_pipeline(
    pipeline: Pipeline,
    place: Place,
    snapshot: Snapshot,
    ask: Callable[[Stage], tuple[str, Resources]],
    start_at: str | None = None,
) -> list[Planned]:
    """Return what each stage runs, in an order in which parents come first.

    Args:
        pipeline: the graph.
        place: where.
        snapshot: the code.
        ask: stage -> its recipe's path in the project, and its resources.
        start_at: take the stages that do not follow this one from the latest launch, whatever
            the code and the recipes are now.

    Raises:
        JobsError: if a stage cannot be.
    """
    again = pipeline.following(start_at) if start_at else {each.name for each in pipeline.stages}
    before = _earlier_runs(pipeline, place, again) if start_at else {}
    planned: dict[str, Planned] = {}
    for stage in pipeline.stages:
        parents = tuple(planned[name].run for name in stage.after)
        if stage.name not in again:
            run = RunFolder(before[stage.name])
            planned[stage.name] = Planned(stage.name, run, parents, None)
            continue
        runs = {name: each.run.path for name, each in planned.items()}
        recipe, resources = ask(stage)
        words = (fill_references(word, runs) for word in stage.overrides)
        spec = JobSpec(
            kind=stage.kind,
            name=f"{pipeline.name}.{stage.name}",
            module=stage.module,
            arguments=(stage.command, "--config", recipe, *words),
            resources=resources,
        )
        run = run_folder_of(spec, place, snapshot)
        planned[stage.name] = Planned(stage.name, run, parents, spec)
    return list(planned.values())


def check_stages(
    pipeline: Pipeline, place: Place, snapshot: Snapshot, recipe_of: Callable[[Stage], str]
) -> None:
    """Have the program judge every stage; what a stage reads of another is stood in for.

    Raises:
        ConfigError: with the program's words.
    """
    modules = {stage.module for stage in pipeline.stages}
    with tempfile.TemporaryDirectory(prefix="egovl-pipeline-") as folder:
        for module in sorted(modules) if place.check else ():
            lines: list[list[str]] = []
            for stage in pipeline.stages:
                words = [stand_in_references(word, Path(folder)) for word in stage.overrides]
                if stage.module == module:
                    lines.append([*place.check, "--config", recipe_of(stage), *words])
            judge(module, lines, snapshot.path, place.home)


def launch_pipeline(
    pipeline: Pipeline,
    cluster: Cluster,
    place: Place,
    executor: str,
    ask: Callable[[Stage], tuple[str, Resources]],
    start_at: str | None = None,
) -> list[Planned]:
    """Start a pipeline, or go on with it: what is done or at work is left alone.

    Args:
        pipeline: the graph.
        cluster: the profile.
        place: where; its `check` is followed by `--config`, recipe and overrides.
        executor: slurm, local or debug.
        ask: stage -> its recipe's path in the project, and its resources.
        start_at: see `plan_pipeline`.

    Raises:
        JobsError: if the code cannot be copied, a configuration is wrong, or Slurm refuses; the
            stages before the refused one stay queued.
    """
    record = Record(place.runs, pipeline.name)
    if pid := record.controller():
        raise RunError(f"pipeline {pipeline.name} is at work as process {pid}")
    for stage in pipeline.stages:
        resources = ask(stage)[1]
        check_request(JobSpec(stage.kind, stage.name, resources=resources), executor)
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs], rules=place.rules)
    check_stages(pipeline, place, snapshot, lambda stage: ask(stage)[0])
    planned = plan_pipeline(pipeline, place, snapshot, ask, start_at)
    facts = _record_facts(planned, place, snapshot, executor)
    write_json_atomic(record.path, facts)
    if executor == "slurm":
        for stage in planned:
            if stage.spec is not None:
                _launch_stage(stage, stage.spec, cluster, place, snapshot)
    elif executor == "debug":
        run_stages(facts, executor)
    else:
        argv = ["jobs.local_pipeline", str(record.path)]
        process = start_controller(argv, snapshot.path, record.path.with_suffix(".log"))
        write_json_atomic(record.path, facts | process)
    return planned


def _launch_stage(
    stage: Planned, spec: JobSpec, cluster: Cluster, place: Place, snapshot: Snapshot
) -> None:
    try:
        launch_copy(spec, cluster, place, "slurm", snapshot, after=stage.parents)
    except SubmitError as error:
        raise SubmitError(f"stage {stage.name}: {error}; launch again to go on from it") from error


def _record_facts(
    planned: Iterable[Planned], place: Place, snapshot: Snapshot, executor: str
) -> dict[str, Any]:
    return {
        "schema": 1,
        "executor": executor,
        "created": time.time(),
        "home": str(place.home),
        "runs": str(place.runs),
        "argv": list(place.argv),
        "snapshot": str(snapshot.path),
        "snapshot_hash": snapshot.tree_hash,
        "stages": [
            {
                "name": each.name,
                "run": str(each.run.path),
                "after": [str(parent.path) for parent in each.parents],
                "spec": each.spec.to_json() if each.spec else None,
            }
            for each in planned
        ],
    }


def _earlier_runs(pipeline: Pipeline, place: Place, again: set[str]) -> dict[str, Path]:
    """Return the runs of the stages that are not launched again.

    Raises:
        ConfigError: if one of them has no run.
    """
    facts = Record(place.runs, pipeline.name).read()
    runs = {each["name"]: Path(each["run"]) for each in facts["stages"]}
    for stage in pipeline.stages:
        if stage.name in again:
            continue
        if stage.name not in runs or not RunFolder(runs[stage.name]).run_json.is_file():
            raise ConfigError(f"stage {stage.name} has no run to take over: begin with --from it")
    return runs


# ---- how it stands


def stage_rows(record: Record) -> list[StageRow]:
    """Return how the stages of the latest launch stand, in their order; one look at Slurm's queue.

    Raises:
        JobsError: if there is no record, or Slurm does not answer.
    """
    facts = record.read()
    queue = {job for job, _ in slurm.list_queue()} if facts["executor"] == "slurm" else None
    is_led = record.controller() is not None
    return [_row(stage, queue, is_led) for stage in facts["stages"]]


def _row(stage: Mapping[str, Any], queue: set[str] | None, is_led: bool) -> StageRow:
    run = RunFolder(Path(stage["run"]))
    state = run.read_state()
    row = StageRow(
        stage["name"],
        str(state.get("state", "waiting")),
        run.path,
        step=run.last_commit_step() if state.get("step") is None else state["step"],
        job_id=str(state.get("job_id", "")),
        reason=str(state.get("reason") or ""),
    )
    if row.state in FINAL:
        return row
    parents = [RunFolder(Path(path)) for path in stage["after"]]
    if all(each.read_state().get("state") == "done" for each in parents):
        row = replace(row, state="queued" if row.state == "waiting" else row.state)
    standing = find_standing(run, queue)
    if standing.state == "live":
        return replace(row, job_id=standing.job_id or row.job_id)
    if is_led or row.state == "done":
        return row
    if standing.state == "fresh":
        return replace(row, state="not started", reason="launch again to go on")
    return replace(row, state="lost", reason=f"{standing.message}; launch again to go on")


def render_rows(rows: Iterable[StageRow]) -> str:
    """Return the stages as a table."""
    head = ("stage", "state", "step", "job", "run folder", "")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        step = "-" if row.step is None else str(row.step)
        lines.append((row.name, row.state, step, row.job_id or "-", str(row.run), row.reason))
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def render_graph(planned: Iterable[Planned]) -> str:
    """Return what a launch would run, stage by stage."""
    parts: list[str] = []
    names: dict[Path, str] = {}
    for stage in planned:
        names[stage.run.path] = stage.name
        after = ", ".join(names[parent.path] for parent in stage.parents)
        lines = [f"{stage.name}{f'  after {after}' if after else ''}", f"  {stage.run.path}"]
        if stage.spec is None:
            lines.append("  taken as it is")
        else:
            ask = stage.spec.resources
            lines.append(f"  {stage.spec.module} {' '.join(stage.spec.arguments)}")
            where = f" in {ask.partition}" if ask.partition else ""
            size = f"{ask.nodes} node(s) x {ask.processes_per_node} processes"
            gpus = f", {ask.gpus_per_node} GPUs a node" if ask.gpus_per_node else ""
            lines.append(f"  {size}{gpus}, {ask.time_limit_sec / 3600:.3g} h{where}")
        parts.append("\n".join(lines))
    return "\n".join(parts)
