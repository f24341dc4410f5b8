"""From a job spec to a running job: snapshot, run folder, claim, ledger, executor."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.agent import NodeAgent, read_run
from jobs.cluster import Cluster, slurm_parameters
from jobs.command import RankPlace, torchrun_command
from jobs.environment import HOME, code_first
from jobs.errors import ConfigError, RunError, SubmitError
from jobs.node import NodeFacts
from jobs.provenance import mask_arguments, write_provenance
from jobs.rendezvous import Rendezvous
from jobs.run_folder import RunFolder, append_line, create_json, read_json, write_json_atomic
from jobs.snapshot import Snapshot, take_snapshot
from jobs.spec import JobSpec
from jobs.standing import Standing, comment_tag, find_standing, record_job

logger = logging.getLogger(__name__)

SCHEMA = 1
LEDGER = ".ledger.jsonl"

# submitit counts timeouts by a guess and gives up after this many; the budgets are ours.
_NO_SUBMITIT_BUDGET = 1_000_000
_LOCAL_START_SEC = 60


@dataclass(frozen=True)
class Place:
    """Where a launch takes place.

    Attributes:
        home: the project's root: what is copied, and where relative data paths start.
        runs: folder of all runs.
        snapshots: folder of all code copies.
        argv: the launcher's command line, for provenance.
        check: arguments after `-m <module>` that judge the configuration; empty for none.
    """

    home: Path
    runs: Path
    snapshots: Path
    argv: tuple[str, ...] = ()
    check: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launched:
    """What a launch came to.

    Attributes:
        job_id: Slurm's, or the local controller's process id.
        state: queued (by this launch), live (somebody else's launch of the same run), done, or for
            the debug executor how the run ended.
        message: for people.
    """

    run_dir: Path
    job_id: str
    executor: str
    state: str
    message: str = ""


def launch(spec: JobSpec, cluster: Cluster, place: Place, executor: str) -> Launched:
    """Start a run, or go on with it, or say who is at work on it.

    Args:
        spec: what to run; with the code it names the run.
        cluster: the profile.
        place: where.
        executor: slurm, local or debug.

    Raises:
        JobsError: if the code cannot be copied, the configuration is wrong, or Slurm refuses; no
            new run folder is left.
    """
    _check_place(spec, executor)
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs])
    check_configuration(spec, place, snapshot)
    run = run_folder_of(spec, place, snapshot)
    token = uuid.uuid4().hex
    number, standing = _take_run(run, spec, place, snapshot, token)
    if number is None:
        return Launched(
            run.path, standing.job_id, standing.executor, standing.state, standing.message
        )
    how = "started" if number == 1 else f"resumed as attempt {number} ({standing.message})"
    write_provenance(place.home, run.provenance, list(place.argv))
    return _queue(run, spec, cluster, executor, Submission(snapshot, token, number, how))


@dataclass(frozen=True)
class Submission:
    """What one submission adds to the run: code, token, first attempt."""

    snapshot: Snapshot
    token: str
    number: int
    how: str


def resume(run: RunFolder, resources: Mapping[str, Any]) -> Launched:
    """Go on with a run from its last COMMIT, with the code and the spec that it has.

    Args:
        run: the run.
        resources: fields of `Resources` to change; an `exclude` comes on top of what is excluded.

    Returns:
        What `launch` returns; live or done where there is nothing to go on with.

    Raises:
        JobsError: if the run's code copy is gone, or Slurm refuses.
    """
    facts = read_run(run)
    snapshot = Snapshot(Path(facts["snapshot"]), str(facts["snapshot_hash"]))
    if not snapshot.path.is_dir():
        raise RunError(f"{run.path}: its code copy {snapshot.path} is gone; launch it again")
    last = run.attempt(run.latest_attempt()).holder
    known = read_json(run.spec_json(last.token)) if last else None
    spec = JobSpec.from_json(known or facts["spec"])
    skipped = (*spec.resources.exclude, *resources.get("exclude", ()))
    asked = {**resources, "exclude": tuple(dict.fromkeys(skipped))}
    spec = replace(spec, resources=replace(spec.resources, **asked))
    profile = read_json(run.cluster_json(last.token)) if last else None
    job = (read_json(run.job_json(last.token)) if last else None) or run.read_state()
    executor = "slurm" if job.get("executor") == "slurm" else "local"
    cluster = Cluster.from_json(profile) if profile else Cluster("unknown", executor=executor)
    _check_place(spec, executor)
    place = Place(Path(facts["home"]), run.path.parent.parent, snapshot.path.parent)
    token = uuid.uuid4().hex
    number, standing = _take_run(run, spec, place, snapshot, token)
    if number is None:
        return Launched(
            run.path, standing.job_id, standing.executor, standing.state, standing.message
        )
    how = f"resumed as attempt {number} from step {run.last_commit_step() or 0}"
    return _queue(run, spec, cluster, executor, Submission(snapshot, token, number, how))


def _check_place(spec: JobSpec, executor: str) -> None:
    if executor == "slurm" and spec.resources.partition:
        slurm.check_partition(spec.resources.partition)
    if executor != "slurm" and spec.resources.nodes != 1:
        raise SubmitError(f"the {executor} executor has one node, {spec.resources.nodes} asked for")


def run_folder_of(spec: JobSpec, place: Place, snapshot: Snapshot) -> RunFolder:
    """Return the folder of a run: the same work on the same code has the same one."""
    signature = spec.signature(snapshot.tree_hash)
    return RunFolder(place.runs / spec.kind / f"{spec.name}-{signature}")


def check_configuration(spec: JobSpec, place: Place, snapshot: Snapshot) -> None:
    """Have the program itself judge its configuration, before anything is queued.

    Raises:
        ConfigError: with the program's words.
    """
    if not place.check:
        return
    result = subprocess.run(
        [sys.executable, "-m", spec.module, *place.check],
        cwd=snapshot.path,
        env={**os.environ, **code_first(str(snapshot.path)), HOME: str(place.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise ConfigError((result.stderr.strip() or result.stdout.strip()).strip())


def _take_run(
    run: RunFolder, spec: JobSpec, place: Place, snapshot: Snapshot, token: str
) -> tuple[int | None, Standing]:
    """Claim the next attempt; None if the run is done or somebody is at work on it."""
    while True:
        standing = find_standing(run)
        if standing.state in ("done", "live"):
            return None, standing
        facts = {
            "schema": SCHEMA,
            "kind": spec.kind,
            "name": spec.name,
            "spec": spec.to_json(),
            "snapshot": str(snapshot.path),
            "snapshot_hash": snapshot.tree_hash,
            "home": str(place.home),
            "argv": mask_arguments(place.argv),
            "created": time.time(),
        }
        create_json(run.run_json, facts)
        number = run.latest_attempt() + 1
        if run.claim_attempt(number, token, 0, by="launch"):
            return number, standing


def _queue(
    run: RunFolder, spec: JobSpec, cluster: Cluster, executor: str, facts: Submission
) -> Launched:
    """Submit a claimed attempt; if that fails, the claim is taken back."""
    before = run.read_state()
    try:
        write_json_atomic(run.spec_json(facts.token), spec.to_json())
        write_json_atomic(run.cluster_json(facts.token), cluster.to_json())
        run.write_state("queued", attempt=facts.number, executor=executor)
        return _submit(run, spec, cluster, executor, facts)
    except SubmitError:
        _forget(run, facts.number, facts.token, before)
        raise


def _forget(run: RunFolder, number: int, token: str, state: Mapping[str, Any]) -> None:
    """Take back a claim whose job was never queued; a run that never was leaves no folder."""
    if number == 1:
        shutil.rmtree(run.path)
        return
    shutil.rmtree(run.attempt(number).path)
    write_json_atomic(run.state_json, state)
    run.spec_json(token).unlink(missing_ok=True)
    run.cluster_json(token).unlink(missing_ok=True)


def _submit(
    run: RunFolder, spec: JobSpec, cluster: Cluster, executor: str, facts: Submission
) -> Launched:
    agent = NodeAgent(str(run.path), str(facts.snapshot.path), facts.token)
    ledger = run.path.parent.parent / LEDGER
    line = {"tag": comment_tag(facts.token), "run": str(run.path), "executor": executor}
    append_line(ledger, {**line, "event": "submitting", "time": time.time()})
    if executor == "debug":
        record_job(run, facts.token, str(os.getpid()), executor)
        state = _run_here(agent, run)
        return Launched(run.path, str(os.getpid()), executor, state, facts.how)
    if executor == "slurm":
        job_id = _submit_to_slurm(run, spec, cluster, agent)
        record_job(run, facts.token, job_id, executor)
    else:
        job_id = _start_locally(run, spec, agent)
    append_line(ledger, {**line, "event": "submitted", "job_id": job_id, "time": time.time()})
    return Launched(run.path, job_id, executor, "queued", facts.how)


def _submit_to_slurm(run: RunFolder, spec: JobSpec, cluster: Cluster, agent: NodeAgent) -> str:
    import submitit  # heavy, and only where something is submitted
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with slurm.outside_any_job():
            executor = submitit.SlurmExecutor(run.submission, max_num_timeout=_NO_SUBMITIT_BUDGET)
            executor.update_parameters(**batch_parameters(spec, cluster, agent))
            return executor.submit(agent).job_id
    except (FailedJobError, FailedSubmissionError) as error:
        raise SubmitError(f"Slurm: {str(error).strip()}") from error
    except RuntimeError as error:  # submitit without srun on the PATH
        raise SubmitError(str(error)) from error


def batch_parameters(spec: JobSpec, cluster: Cluster, agent: NodeAgent) -> dict[str, Any]:
    """Return submitit's parameters for one submission."""
    parameters = slurm_parameters(spec, cluster)
    snapshot = shlex.quote(agent.snapshot)
    python = shlex.quote(sys.executable)
    finish = shlex.join(["-m", "jobs.after_step", agent.run_dir, agent.token])
    parameters["setup"] = [
        *(parameters.get("setup") or []),
        "trap : TERM CONT  # a requeue signals this shell too; it still has a last word",
        f"cd {snapshot}",
        f"export PYTHONPATH={snapshot}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    parameters["teardown"] = ["step_status=$?", f'{python} {finish} "$step_status"']
    parameters["comment"] = comment_tag(agent.token)
    return parameters


def _start_locally(run: RunFolder, spec: JobSpec, agent: NodeAgent) -> str:
    run.submission.mkdir(parents=True, exist_ok=True)
    gpus = str(spec.resources.gpus_per_node)
    argv = [sys.executable, "-m", "jobs.local_start", agent.run_dir, agent.snapshot, agent.token]
    log = run.submission / "controller.log"
    with slurm.outside_any_job(code_first(agent.snapshot)), log.open("ab") as output:
        started = subprocess.run(
            [*argv, gpus],
            cwd=agent.snapshot,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=_LOCAL_START_SEC,
            check=False,
        )
    job = read_json(run.job_json(agent.token))
    if started.returncode != 0 or job is None:
        raise SubmitError(f"could not start: {log.read_text(errors='replace').strip()}")
    return str(job["job_id"])


def _run_here(agent: NodeAgent, run: RunFolder) -> str:
    try:
        with slurm.outside_any_job():
            agent()
    except SystemExit:
        logger.debug("the run has failed; its state says why")
    return str(run.read_state().get("state"))


def render(spec: JobSpec, cluster: Cluster, place: Place, executor: str) -> str:
    """Return what a launch would run: the sbatch script and node 0's torchrun command."""
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs])
    check_configuration(spec, place, snapshot)
    run = run_folder_of(spec, place, snapshot)
    agent = NodeAgent(str(run.path), str(snapshot.path), "TOKEN")
    host = "127.0.0.1" if spec.resources.nodes == 1 else "NODE0"
    argv, env = torchrun_command(
        spec,
        NodeFacts(count=spec.resources.nodes),
        Rendezvous(host, 0, f"{run.path.name}-a1-r0", 0, host),
        place=RankPlace(
            run_dir=str(run.path),
            attempt=1,
            stop_file="NODE_LOCAL/stop.json",
            home=str(place.home),
            rank_log=str(run.attempt(1).logs / "0.{local_rank}.log"),
            main_log=str(run.attempt(1).main_log),
        ),
        python=sys.executable,
    )
    parts = [f"# run folder\n{run.path}"]
    if executor == "slurm":
        parts.append(f"# sbatch script\n{sbatch_text(run, spec, cluster, agent)}")
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    command = " \\\n  ".join([f"cd {snapshot.path} &&", *variables, shlex.join(argv)])
    parts.append(f"# torchrun, on node 0 (port, stop file and token are chosen there)\n{command}")
    return "\n\n".join(parts)


def sbatch_text(run: RunFolder, spec: JobSpec, cluster: Cluster, agent: NodeAgent) -> str:
    """Return the batch script as submitit writes it; needs no Slurm, unlike its executor."""
    from submitit.slurm.slurm import _make_sbatch_string  # pyright: ignore[reportPrivateUsage]

    folder = shlex.quote(str(run.submission))
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {folder}"
    parameters = batch_parameters(spec, cluster, agent)
    return _make_sbatch_string(command=command, folder=run.submission, **parameters)
