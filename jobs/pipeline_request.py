"""From the flags of `launchers/pipeline.py` to a launch, and what to print."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.errors import ConfigError, JobsError
from jobs.pipeline import RESOURCE_FLAGS, Pipeline, Stage, load_pipeline
from jobs.pipeline_launch import (
    Record,
    check_stages,
    launch_pipeline,
    plan_pipeline,
    render_graph,
    render_rows,
    stage_rows,
)
from jobs.request import choose_executor, choose_resources, recipe_path
from jobs.settings import Settings, load_settings
from jobs.snapshot import take_snapshot
from jobs.spec import Resources
from jobs.standing import FINAL
from jobs.submit import Place

_POLL_SEC = 2.0
_ENDED = (*FINAL, "lost", "not started")


def run_pipeline(home: Path, flags: Mapping[str, Any]) -> int:
    """Do what the launcher was asked for.

    Args:
        home: the project's root.
        flags: the parsed flags; None where one was not given.

    Returns:
        The exit code: 0, 2 for what the user has to change; when followed, 1 if a stage was not
        done in the end.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _run_pipeline(home, flags)
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run_pipeline(home: Path, flags: Mapping[str, Any]) -> int:
    for flag in ("sweep", "sweep_file", "parallel"):
        if flags.get(flag):
            raise ConfigError(
                f"--{flag.replace('_', '-')} varies one run, not a pipeline; give a stage sweep:"
            )
    configs = home / "configs"
    settings = load_settings(configs)
    recipe = recipe_path(home, flags.get("config") or settings.recipe("pipeline"))
    pipeline = load_pipeline(home / recipe, flags.get("name")).override(flags["overrides"])
    record = Record(settings.runs, pipeline.name)
    if flags.get("status"):
        print(render_rows(stage_rows(record)))
        return 0
    return _launch(home, pipeline, settings, record, flags)


def _launch(
    home: Path, pipeline: Pipeline, settings: Settings, record: Record, flags: Mapping[str, Any]
) -> int:
    executor, cluster = choose_executor(home / "configs", settings, flags)
    place = Place(
        home=home,
        runs=settings.runs,
        snapshots=settings.snapshots,
        argv=tuple(sys.argv),
        check=("check", "--no-files") if flags.get("dry_run") else ("check",),
    )

    def ask(stage: Stage) -> tuple[str, Resources]:
        return recipe_path(home, stage.config), _resources(stage, cluster, executor, flags)

    if flags.get("dry_run"):
        snapshot = take_snapshot(home, settings.snapshots, exclude=[settings.runs])
        check_stages(pipeline, place, snapshot, lambda stage: ask(stage)[0])
        planned = plan_pipeline(pipeline, place, snapshot, ask, flags.get("start_at"))
        print(f"pipeline {pipeline.name}, {executor}\n{render_graph(planned)}")
        return 0
    launch_pipeline(pipeline, cluster, place, executor, ask, flags.get("start_at"))
    if flags.get("follow"):
        return _follow(record)
    rows = stage_rows(record)
    print(render_rows(rows))
    if executor == "debug":
        return 0 if all(row.is_well for row in rows) else 1
    print("how they stand: the same command with --status; launched again it goes on")
    return 0


def _resources(
    stage: Stage, cluster: Cluster, executor: str, flags: Mapping[str, Any]
) -> Resources:
    """Join what the stage says with the flags, which win."""
    given = {key: flags[key] for key in RESOURCE_FLAGS if flags.get(key) is not None}
    try:
        return choose_resources(cluster, executor, {**stage.resources, **given})
    except JobsError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from error


def _follow(record: Record, poll_sec: float = _POLL_SEC) -> int:
    """Print the table as it changes, until every stage has ended."""
    shown = ""
    try:
        while True:
            rows = stage_rows(record)
            table = render_rows(rows)
            if table != shown:
                shown = table
                print(table, flush=True)
            if all(row.state in _ENDED for row in rows):
                return 0 if all(row.is_well for row in rows) else 1
            time.sleep(poll_sec)
    except KeyboardInterrupt:
        print("\nthe pipeline goes on; look at it with --status")
        return 130
