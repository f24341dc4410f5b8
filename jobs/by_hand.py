"""A run inside a job that a person has submitted: `slurm_templates/by_hand.sbatch`.

    python -m jobs.by_hand prepare KIND [--config FILE] [--name NAME] [key=value ...]
    python -m jobs.by_hand agent RUN SNAPSHOT TOKEN

`prepare` does in the batch shell what a launcher does before it submits, and prints shell
assignments of RUN, SNAPSHOT and TOKEN; `agent` is what srun starts on every node. The run is the
one that the launcher would make of the same code and recipe, and goes on like it, too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from jobs import slurm
from jobs.agent import NodeAgent
from jobs.cluster import Cluster, slurm_parameters
from jobs.configuration_check import ConfigurationCheck
from jobs.errors import ConfigError, JobsError, RunError
from jobs.ledger import record_job
from jobs.node import slurm_job_id
from jobs.provenance import Provenance
from jobs.request import recipe_path
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.settings import Settings, load_settings
from jobs.site import parse_limit
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.submit import Place, run_facts, run_folder_of, take_run

NOTES = ".by_hand"
LEFT_ALONE = 3

_COMMANDS = {"evaluate": "eval"}
_NAMESPACE = uuid.UUID("6c1b7a52-7f0e-4b8e-9f5e-1d2c3b4a5968")
_NO_LIMIT_SEC = 365 * 86400


def resources_of_job(environ: Mapping[str, str], time_limit: str, processes: int) -> Resources:
    """Return what the present job has, as a launcher would have asked for it.

    Args:
        environ: of the batch shell.
        time_limit: as `scontrol show job` prints it.
        processes: per node; 0 takes one per GPU.
    """
    gpus = int(environ.get("SLURM_GPUS_ON_NODE") or 0)
    per_node = processes or gpus or 1
    cpus = int(environ.get("SLURM_CPUS_PER_TASK") or 1)
    return Resources(
        nodes=int(environ.get("SLURM_JOB_NUM_NODES") or 1),
        gpus_per_node=gpus,
        processes_per_node=per_node,
        cpus_per_process=max(1, cpus // per_node),
        time_limit_sec=parse_limit(time_limit) or _NO_LIMIT_SEC,
        partition=environ.get("SLURM_JOB_PARTITION"),
        account=environ.get("SLURM_JOB_ACCOUNT"),
        qos=environ.get("SLURM_JOB_QOS"),
    )


def prepare(arguments: argparse.Namespace, home: Path) -> tuple[RunFolder, Path, str] | None:
    """Make or find the run of this job.

    Returns:
        Run folder, code copy and token; None if somebody else is at work on the run, or it is done.

    Raises:
        JobsError: outside of a job, or for what a launcher would refuse.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise RunError("not inside a Slurm job: sbatch slurm_templates/by_hand.sbatch pretrain")
    job_id = slurm_job_id(os.environ)
    job = slurm.show_job(job_id) or {}
    token = uuid.uuid5(_NAMESPACE, f"{os.environ.get('SLURM_CLUSTER_NAME')}/{job_id}").hex
    settings = load_settings(home / "configs")
    note = settings.runs / NOTES / f"{token}.json"
    if known := read_json(note):  # this job again, requeued
        return RunFolder(Path(known["run"])), Path(known["snapshot"]), token
    recipe = recipe_path(home, arguments.config or settings.recipe(arguments.kind))
    command = ("--config", recipe, *arguments.overrides)
    resources = resources_of_job(os.environ, job.get("TimeLimit", "UNLIMITED"), arguments.processes)
    spec = JobSpec(
        kind=arguments.kind,
        name=arguments.name or Path(recipe).stem,
        arguments=(_COMMANDS.get(arguments.kind, "train"), *command),
        resources=resources,
    )
    place = _place(home, settings, ("check", *command))
    snapshot = take_snapshot(home, place.snapshots, exclude=[place.runs], rules=place.rules)
    ConfigurationCheck(spec.module, place.check, snapshot, home).wait()
    run = run_folder_of(spec, place, snapshot)
    number, standing = take_run(run, run_facts(spec, place, snapshot), token)
    if number is None:
        print(standing.message, file=sys.stderr)
        return None
    _write_down(run, spec, token, job_id, job.get("StdOut", ""))
    Provenance(home, snapshot.repositories).write(run.provenance, place.argv)
    write_json_atomic(note, {"run": str(run.path), "snapshot": str(snapshot.path)})
    return run, snapshot.path, token


def _place(home: Path, settings: Settings, check: tuple[str, ...]) -> Place:
    return Place(
        home=home,
        runs=settings.runs,
        snapshots=settings.snapshots,
        argv=tuple(sys.argv),
        check=check,
        rules=settings.snapshot,
    )


def _write_down(run: RunFolder, spec: JobSpec, token: str, job_id: str, log: str) -> None:
    """Leave what the launcher leaves: what runs, how its successors are submitted, as which job."""
    cluster = Cluster("by_hand")
    write_json_atomic(run.spec_json(token), spec.to_json())
    write_json_atomic(run.cluster_json(token), cluster.to_json())
    write_json_atomic(run.sbatch_json(token), slurm_parameters(spec, cluster))
    record_job(run, token, job_id, "slurm")
    run.write_state("queued", attempt=run.latest_attempt(), executor="slurm", job_id=job_id)
    link = run.submission / f"{job_id}_0_log.out"
    if log and not link.is_symlink():
        link.symlink_to(log)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs.by_hand prepare", description=__doc__)
    add = parser.add_argument
    add("kind", help="of run: pretrain, finetune, evaluate")
    add("overrides", nargs="*", metavar="key=value", help="values of the recipe to change")
    add("--config", metavar="FILE", help="recipe (default: the kind's in configs/defaults.yaml)")
    add("--name", help="of the run (default: the recipe's name)")
    add("--processes", type=int, default=0, metavar="N", help="per node (default: one per GPU)")
    arguments, rest = parser.parse_known_args(words)
    arguments.overrides += rest
    for word in arguments.overrides:
        if "=" not in word[1:] or word.startswith("-"):
            raise ConfigError(f"not key=value: {word!r}; see python -m jobs.by_hand prepare --help")
    return arguments


def main(words: list[str]) -> int:
    """Prepare a run, or be the agent of a node; returns the exit code."""
    if words[:1] == ["agent"] and len(words) == 4:
        os.environ["SUBMITIT_EXECUTOR"] = "slurm"
        NodeAgent(*words[1:])()
        return 0
    if words[:1] != ["prepare"]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found = prepare(_parse(words[1:]), Path.cwd())
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if found is None:
        return LEFT_ALONE
    run, snapshot, token = found
    print(f"RUN={shlex.quote(str(run.path))}")
    print(f"SNAPSHOT={shlex.quote(str(snapshot))}")
    print(f"TOKEN={token}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
