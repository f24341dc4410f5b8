"""From a job spec to a running job: snapshot, run folder, claim, ledger, executor."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import chain, slurm
from jobs.agent import NodeAgent
from jobs.batch import submit_batch
from jobs.cluster import Cluster, slurm_parameters
from jobs.configuration_check import ConfigurationCheck
from jobs.environment import code_first
from jobs.errors import SubmitError
from jobs.ledger import Ledger, record_job
from jobs.member_group import MemberGroup
from jobs.provenance import Provenance, mask_arguments
from jobs.run_folder import RunFolder, create_json, read_json, write_json_atomic
from jobs.snapshot import Snapshot, take_snapshot
from jobs.snapshot_rules import SnapshotRules
from jobs.spec import JobSpec
from jobs.standing import Standing, find_standing
from jobs.submitter import UnclearSubmissionError

logger = logging.getLogger(__name__)

SCHEMA = 1
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
        rules: what the code copy holds beside what git would.
    """

    home: Path
    runs: Path
    snapshots: Path
    argv: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    rules: SnapshotRules = field(default_factory=SnapshotRules)


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
    wait_for_slurm = ask_request(spec, executor)
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs], rules=place.rules)
    wait_for_slurm()
    check = ConfigurationCheck(spec.module, place.check, snapshot, place.home)
    provenance = Provenance(place.home, snapshot.repositories, ask_slurm=executor == "slurm")
    check.wait()
    return launch_copy(spec, cluster, place, executor, snapshot, provenance=provenance)


def check_request(spec: JobSpec, executor: str) -> None:
    """Make sure that the executor can have what is asked for.

    Raises:
        SubmitError: with what there is.
    """
    ask_request(spec, executor)()


def ask_request(spec: JobSpec, executor: str) -> Callable[[], None]:
    """Begin `check_request`; the returned function ends it."""
    if executor != "slurm" and spec.resources.nodes != 1:
        raise SubmitError(f"the {executor} executor has one node, {spec.resources.nodes} asked for")
    if executor != "slurm" or not spec.resources.partition:
        return lambda: None
    return slurm.ask_partition(spec.resources.partition)


def launch_copy(
    spec: JobSpec,
    cluster: Cluster,
    place: Place,
    executor: str,
    snapshot: Snapshot,
    *,
    after: Sequence[RunFolder] = (),
    groups: Sequence[MemberGroup] = (),
    provenance: Provenance | None = None,
) -> Launched:
    """Launch from a code copy that was taken before, its configuration checked.

    Args:
        spec: what to run; with the code it names the run.
        cluster: the profile.
        place: where.
        executor: slurm, local or debug.
        snapshot: the code.
        after: runs that have to be done before this one starts.
        groups: which of those are the members of a sweep.
        provenance: being gathered already; None gathers it here.

    Raises:
        SubmitError: if Slurm refuses; no new run folder is left.
    """
    run = run_folder_of(spec, place, snapshot)
    token = os.urandom(16).hex()
    facts = run_facts(spec, place, snapshot, after)
    if groups:
        facts["groups"] = [group.to_json() for group in groups]
    number, standing = take_run(run, facts, token)
    if number is None:
        return Launched(
            run.path, standing.job_id, standing.executor, standing.state, standing.message
        )
    how = "started" if number == 1 else f"resumed as attempt {number} ({standing.message})"
    provenance = provenance or Provenance(place.home, snapshot.repositories)
    provenance.write(run.provenance, place.argv)
    dependency = chain.line_up(run, after)
    submission = Submission(snapshot, token, number, how, dependency)
    launched = queue_attempt(run, spec, cluster, executor, submission)
    if executor == "slurm":
        chain.follow_up(run, launched.job_id, dependency)
    return launched


@dataclass(frozen=True)
class Submission:
    """What one submission adds to the run: code, token, first attempt, Slurm's dependency."""

    snapshot: Snapshot
    token: str
    number: int
    how: str
    dependency: str = ""


def run_facts(
    spec: JobSpec, place: Place, snapshot: Snapshot, after: Sequence[RunFolder] = ()
) -> dict[str, Any]:
    """Return what `run.json` says of a run for all its life."""
    return {
        "schema": SCHEMA,
        "kind": spec.kind,
        "name": spec.name,
        "spec": spec.to_json(),
        "snapshot": str(snapshot.path),
        "snapshot_hash": snapshot.tree_hash,
        "home": str(place.home),
        "argv": mask_arguments(place.argv),
        "parents": [str(each.path) for each in after],
        "resume_via": spec.resume_via,
        "created": time.time(),
    }


def run_folder_of(spec: JobSpec, place: Place, snapshot: Snapshot) -> RunFolder:
    """Return the folder of a run: the same work on the same code has the same one."""
    return RunFolder(place.runs / spec.kind / run_name(spec, snapshot))


def run_name(spec: JobSpec, snapshot: Snapshot) -> str:
    """Return the name of a run's folder."""
    return f"{spec.name}-{spec.signature(snapshot.tree_hash)}"


def check_configuration(spec: JobSpec, place: Place, snapshot: Snapshot) -> None:
    """Have the program itself judge its configuration, before anything is queued.

    Raises:
        ConfigError: with the program's words.
    """
    ConfigurationCheck(spec.module, place.check, snapshot, place.home).wait()


def take_run(run: RunFolder, facts: Mapping[str, Any], token: str) -> tuple[int | None, Standing]:
    """Claim the next attempt; None if the run is done or somebody is at work on it."""
    while True:
        standing = find_standing(run)
        if standing.state in ("done", "live"):
            return None, standing
        create_json(run.run_json, facts)
        if run.latest_attempt():
            from jobs.conclusion import conclude_lost  # a first launch goes without, and is faster

            conclude_lost(run)
        number = run.latest_attempt() + 1
        if run.claim_attempt(number, token, 0, by="launch"):
            return number, standing


def queue_attempt(
    run: RunFolder, spec: JobSpec, cluster: Cluster, executor: str, submission: Submission
) -> Launched:
    """Submit an attempt that is claimed; if it is refused, the claim is taken back.

    Raises:
        SubmitError: if it is refused.
        UnclearSubmissionError: if the job may be in the queue all the same.
    """
    before, token = run.read_state(), submission.token
    try:
        write_json_atomic(run.spec_json(token), spec.to_json())
        write_json_atomic(run.cluster_json(token), cluster.to_json())
        state = "waiting" if submission.dependency else "queued"
        run.write_state(state, attempt=submission.number, executor=executor)
        return _submit(run, spec, cluster, executor, submission)
    except UnclearSubmissionError:
        raise
    except SubmitError:
        Ledger(run.path.parent.parent).refused(run, token, executor)
        _forget(run, submission.number, token, before)
        raise


def _forget(run: RunFolder, number: int, token: str, state: Mapping[str, Any]) -> None:
    """Take back a claim whose job was never queued; a run that never was leaves no folder."""
    if number == 1:
        shutil.rmtree(run.path)
        return
    shutil.rmtree(run.attempt(number).path)
    write_json_atomic(run.state_json, state)
    for path in (run.spec_json, run.cluster_json, run.sbatch_json):
        path(token).unlink(missing_ok=True)


def _submit(
    run: RunFolder, spec: JobSpec, cluster: Cluster, executor: str, facts: Submission
) -> Launched:
    agent = NodeAgent(str(run.path), str(facts.snapshot.path), facts.token)
    ledger = Ledger(run.path.parent.parent)
    ledger.submitting(run, facts.token, executor)
    if executor == "debug":
        record_job(run, facts.token, str(os.getpid()), executor)
        ledger.submitted(run, facts.token, executor, str(os.getpid()))
        state = _run_here(agent, run)
        return Launched(run.path, str(os.getpid()), executor, state, facts.how)
    if executor == "slurm":
        parameters = slurm_parameters(spec, cluster)
        write_json_atomic(run.sbatch_json(facts.token), parameters)
        if facts.dependency:  # of this submission only: its successors wait for the job before
            parameters["dependency"] = facts.dependency
        if facts.number > 1:
            from jobs.outcome import next_exclusions
            from jobs.successor import without_nodes

            parameters = without_nodes(parameters, next_exclusions(run))
        job_id = submit_batch(run, parameters, agent)
    else:
        job_id = _start_locally(run, spec, agent)
    ledger.submitted(run, facts.token, executor, job_id)
    return Launched(run.path, job_id, executor, "queued", facts.how)


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
