"""From a launcher's flags to a launch: defaults, cluster, resources, spec, and what to print."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jobs import slurm
from jobs.cluster import Cluster, build_resources, load_cluster, resolve_cluster_name
from jobs.errors import ConfigError, JobsError
from jobs.run_folder import RunFolder
from jobs.settings import Settings, load_settings
from jobs.snapshot_rules import with_patterns
from jobs.spec import JobSpec, Resources
from jobs.submit import Launched, Place, launch

# Flags that are fields of `Resources`.
_RESOURCES = {
    "nodes": "nodes",
    "gpus": "gpus_per_node",
    "processes": "processes_per_node",
    "cpus": "cpus_per_process",
    "memory": "memory_gb",
    "time": "time_limit_sec",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclude": "exclude",
    "stop_lead": "stop_lead_sec",
}


def run_request(home: Path, kind: str, command: str, flags: Mapping[str, Any]) -> int:
    """Do what a launcher was asked for.

    Args:
        home: the project's root.
        kind: of run; also the name of its default recipe in `configs/defaults.yaml`.
        command: of egovl, in one word or more.
        flags: the launcher's parsed flags; None where one was not given.

    Returns:
        The exit code: 0, 2 for what the user has to change, or the run's when followed.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _run_request(home, kind, command, flags)
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run_request(home: Path, kind: str, command: str, flags: Mapping[str, Any]) -> int:
    spec, cluster, place, executor = make_request(home, kind, command, flags)
    others = spec.arguments[1:]
    words = judging_words(spec.arguments, with_files=not flags.get("dry_run"))
    if flags.get("sweep") or flags.get("sweep_file"):
        from jobs.sweep_request import run_sweep  # only those who ask for it need it

        return run_sweep(spec, cluster, replace(place, check=words), executor, flags)
    place = replace(place, check=(*words, *others))
    if flags.get("dry_run"):
        from jobs.dry_run import render

        print(render(spec, cluster, place, executor))
        return 0
    if flags.get("forecast"):
        from jobs.forecast import run_forecast

        return run_forecast(spec, cluster, place, executor)
    launched = launch(spec, cluster, place, executor)
    return report(launched, is_followed=bool(flags.get("follow")))


class Request(NamedTuple):
    """What to run, on which cluster, from where, and how it is started."""

    spec: JobSpec
    cluster: Cluster
    place: Place
    executor: str


def make_request(home: Path, kind: str, command: str, flags: Mapping[str, Any]) -> Request:
    """Join flags, defaults and the cluster's profile.

    Raises:
        JobsError: for what the user has to change.
    """
    configs = home / "configs"
    settings = load_settings(configs)
    executor, cluster = choose_executor(configs, settings, flags)
    recipe = recipe_path(home, flags.get("config") or settings.recipe(kind))
    spec = JobSpec(
        kind=kind,
        name=flags.get("name") or Path(recipe).stem,
        arguments=(*command.split(), "--config", recipe, *flags["overrides"]),
        resources=choose_resources(cluster, executor, flags),
        resume_via=flags.get("resume_via") or cluster.resume_via or settings.resume_via,
        budgets=tuple({**dict(settings.budgets), **dict(cluster.budgets)}.items()),
    )
    place = Place(
        home=home,
        runs=settings.runs,
        snapshots=settings.snapshots,
        argv=tuple(sys.argv),
        rules=with_patterns(settings.snapshot, flags.get("include") or ()),
    )
    return Request(spec, cluster, place, executor)


def judging_words(arguments: Sequence[str], *, with_files: bool = True) -> tuple[str, ...]:
    """Return what has egovl judge a command instead of running it; its other arguments follow.

    A command in one word takes a recipe, which `check` judges; one in several has its own flag.
    """
    words = ("check",) if arguments[1].startswith("-") else (arguments[0], "--check")
    return words if with_files else (*words, "--no-files")


def choose_executor(
    configs: Path, settings: Settings, flags: Mapping[str, Any]
) -> tuple[str, Cluster]:
    """Return the executor and the cluster profile; say so where Slurm was meant and is not there.

    Raises:
        ConfigError: if the profile is unknown, or none can be chosen.
    """
    asked, name = flags.get("executor") or "auto", flags.get("cluster") or settings.cluster
    if asked in ("local", "debug"):
        return asked, load_cluster(configs, flags.get("cluster") or "local")
    found = slurm.cluster_name()
    if asked == "slurm" and found is None:
        found = ""  # asked for by name: the profile is looked for as if one answered
    cluster = load_cluster(
        configs, resolve_cluster_name(name, configs, found, flags.get("partition"))
    )
    answers = found is not None
    if asked == "slurm" or (cluster.executor == "slurm" and answers):
        return "slurm", cluster
    if cluster.executor == "slurm":
        cluster = load_cluster(configs, "local")
    if not answers:
        _say_once("no Slurm answers here: running on this machine")
    return "debug" if cluster.executor == "debug" else "local", cluster


def choose_resources(cluster: Cluster, executor: str, flags: Mapping[str, Any]) -> Resources:
    """Join flags and profile; on this machine there is one node, whatever was asked.

    Raises:
        SpecError: if a value is out of range.
    """
    asked = {field: flags.get(flag) for flag, field in _RESOURCES.items()}
    resources = build_resources(cluster, asked)
    if executor != "slurm" and resources.nodes != 1:
        _say_once(f"{resources.nodes} nodes asked for, one is here: using one")
        resources = replace(resources, nodes=1)
    return resources


@functools.cache  # a sweep or a suite makes many requests
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


def recipe_path(home: Path, config: str) -> str:
    """Return the recipe's path relative to the project's root, the form that holds in a snapshot.

    Raises:
        ConfigError: if there is no such file, or it is outside of the project.
    """
    path = Path(config).expanduser()
    for candidate in (path, home / path):
        if candidate.is_file():
            try:
                return candidate.resolve().relative_to(home.resolve()).as_posix()
            except ValueError:
                message = f"{config} is outside of {home}: a job runs from a copy of the project"
                raise ConfigError(message) from None
    known = ", ".join(sorted(each.name for each in (home / path).parent.glob("*.yaml")))
    raise ConfigError(f"no recipe {config}" + (f"; beside it: {known}" if known else ""))


def report(launched: Launched, *, is_followed: bool) -> int:
    """Print what a launch came to, and follow the run if asked."""
    run = RunFolder(launched.run_dir)
    if launched.state == "done":
        print(launched.message)
        return 0
    if launched.state == "live":
        print(f"not started again: {launched.message}")
    elif launched.executor == "debug":
        print(f"{launched.run_dir}: {launched.state}")
        return 0 if launched.state == "done" else 1
    else:
        what = "job" if launched.executor == "slurm" else "process"
        print(f"{launched.message}: {what} {launched.job_id}")
    print(f"run folder  {launched.run_dir}")
    if is_followed:
        from jobs.follow import follow  # only those who stay need it

        return follow(run)
    print(f"follow      python -m jobs follow {launched.run_dir}")
    print(f"stop        python -m jobs stop {launched.run_dir}")
    return 0
