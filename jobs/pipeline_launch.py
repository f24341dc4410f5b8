"""Launch the stages of a pipeline that are neither done nor at work, and show how they stand.

On Slurm all stages are queued at once, each behind its parents (`jobs.chain`). On this machine one
process runs them in order (`jobs.local_pipeline`). The record `runs/.pipelines/<name>.json` says
which run each stage was in the latest launch. A stage that is a sweep has a run per member, and
`runs/.pipelines/best/` links the best one of each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.array_launch import covering_members
from jobs.check_many import judge
from jobs.cluster import Cluster
from jobs.controller import controller_pid, start_controller
from jobs.errors import ConfigError, RunError, SubmitError
from jobs.local_pipeline import run_stages
from jobs.member_group import MemberGroup, find_best, make_group, unfinished
from jobs.pipeline import Pipeline, Stage, fill_references, stand_in_references
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.snapshot import Snapshot, take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.standing import FINAL, find_standing
from jobs.submit import Place, check_request, launch_copy, run_folder_of

PIPELINES = ".pipelines"
BEST = "best"


@dataclass(frozen=True)
class Planned:
    """A stage with its references filled in, or one member of a stage that is a sweep.

    Attributes:
        name: of the stage; a member's with what it sets in brackets.
        spec: None for a stage that is taken from an earlier launch as it is.
        stage: its name.
        groups: the sweeps that it comes after.
    """

    name: str
    run: RunFolder
    parents: tuple[RunFolder, ...]
    spec: JobSpec | None
    stage: str = ""
    groups: tuple[MemberGroup, ...] = ()


@dataclass(frozen=True)
class StageRow:
    """How a stage stands.

    Attributes:
        state: of its run; waiting where that has not begun; lost if it is gone without a word.
        is_dispensable: whether the stages after it go on although it has failed.
    """

    name: str
    state: str
    run: Path
    step: int | None = None
    job_id: str = ""
    reason: str = ""
    is_dispensable: bool = False

    @property
    def is_well(self) -> bool:
        """Whether nothing of it is missing."""
        return self.state == "done" or self.is_dispensable


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
    planned: list[Planned] = []
    groups: dict[str, MemberGroup] = {}
    for stage in pipeline.stages:
        parents = tuple(each.run for each in planned if each.stage in stage.after)
        paths = {each.stage: each.run.path for each in planned}
        paths |= {name: each.link for name, each in groups.items() if each.link is not None}
        if stage.name in again:
            recipe, resources = ask(stage)
            words = [tuple(fill_references(w, paths) for w in line) for line in stage.lines]
            spec = JobSpec(
                kind=stage.kind,
                name=f"{pipeline.name}.{stage.name}",
                module=stage.module,
                resources=resources,
            )
            start = (stage.command, "--config", recipe)
            specs = [replace(spec, arguments=(*start, *line)) for line in words]
            runs = [run_folder_of(each, place, snapshot) for each in specs]
        else:
            runs = [RunFolder(path) for path in before[stage.name]]
            specs = [None] * len(runs)
        known = tuple(group for name, group in groups.items() if name in stage.after)
        names = _row_names(stage)
        planned += [
            Planned(name, run, parents, spec, stage.name, known)
            for name, run, spec in zip(names, runs, specs, strict=True)
        ]
        if stage.members:
            members = [run.path for run in runs]
            name, folder = f"{pipeline.name}.{stage.name}", place.runs / PIPELINES / BEST
            skips = stage.skips_failed
            groups[stage.name] = make_group(members, stage.best, folder, name, skips_failed=skips)
    return planned


def _row_names(stage: Stage) -> list[str]:
    if not stage.members:
        return [stage.name]
    return [f"{stage.name}[{','.join(words)}]" for words in stage.members]


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
                for number in covering_members(stage.lines) if stage.module == module else ():
                    line = stage.lines[number]
                    words = [stand_in_references(word, Path(folder)) for word in line]
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
        launch_copy(
            spec, cluster, place, "slurm", snapshot, after=stage.parents, groups=stage.groups
        )
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
                "stage": each.stage,
                "run": str(each.run.path),
                "after": [str(parent.path) for parent in each.parents],
                "groups": [group.to_json() for group in each.groups],
                "spec": each.spec.to_json() if each.spec else None,
            }
            for each in planned
        ],
    }


def _earlier_runs(pipeline: Pipeline, place: Place, again: set[str]) -> dict[str, list[Path]]:
    """Return the runs of the stages that are not launched again, a sweep's in their order.

    Raises:
        ConfigError: if one of them has no run.
    """
    facts = Record(place.runs, pipeline.name).read()
    runs: dict[str, list[Path]] = {}
    for each in facts["stages"]:
        runs.setdefault(each.get("stage") or each["name"], []).append(Path(each["run"]))
    for stage in pipeline.stages:
        if stage.name in again:
            continue
        found = runs.get(stage.name, [])
        if len(stage.lines) != len(found) or not all(
            RunFolder(path).run_json.is_file() for path in found
        ):
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
    groups = [
        MemberGroup.from_json(g) for stage in facts["stages"] for g in stage.get("groups", ())
    ]
    best = _describe_best(groups)
    spare = {path for group in groups for path in _dispensable(group)}
    rows = (_row(stage, queue, is_led) for stage in facts["stages"])
    return [
        replace(
            row,
            reason=row.reason or best.get(row.run.resolve(), ""),
            is_dispensable=row.run in spare,
        )
        for row in rows
    ]


def _describe_best(groups: Iterable[MemberGroup]) -> dict[Path, str]:
    """Return what to say of the members that were chosen, by run folder."""
    found: dict[Path, str] = {}
    for group in groups:
        if group.best is not None and group.link is not None and group.link.is_symlink():
            best, value = find_best(replace(group, members=(group.link.resolve(),)))
            found[best] = f"the best: {group.best.metric} {value:.6g}"
    return found


def _dispensable(group: MemberGroup) -> set[Path]:
    members = [RunFolder(path) for path in group.members]
    needed = {each.path for each in unfinished(members, [group])}
    return {
        each.path
        for each in members
        if each.path not in needed and each.read_state().get("state") != "done"
    }


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
    if not unfinished(parents, map(MemberGroup.from_json, stage.get("groups", ()))):
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


def _describe_choice(group: MemberGroup) -> str:
    assert group.best is not None
    which = f"{group.best.mode} {group.best.metric} of {len(group.members)}"
    return f"reads the best ({which}) from {group.link}"


def render_graph(planned: Iterable[Planned]) -> str:
    """Return what a launch would run, stage by stage."""
    parts: list[str] = []
    names: dict[Path, str] = {}
    for stage in planned:
        names[stage.run.path] = stage.stage or stage.name
        after = ", ".join(dict.fromkeys(names[parent.path] for parent in stage.parents))
        lines = [f"{stage.name}{f'  after {after}' if after else ''}", f"  {stage.run.path}"]
        lines += [f"  {_describe_choice(group)}" for group in stage.groups if group.best]
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
