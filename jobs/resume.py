"""Go on with a run that nobody is at work on, from outside of any job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster, slurm_parameters
from jobs.conclusion import conclude_lost
from jobs.errors import RunError
from jobs.run_folder import Holder, RunFolder, read_json, write_json_atomic
from jobs.snapshot import Snapshot, mark_used
from jobs.spec import JobSpec
from jobs.standing import find_standing, hasten
from jobs.submit import Launched, Submission, check_request, queue_attempt
from jobs.successor import claim_successor, submit_successor


def resume(run: RunFolder, resources: Mapping[str, Any] | None = None) -> Launched:
    """Go on with a run from its last COMMIT, with the code and the spec that it has.

    A requeued job that Slurm holds back is told to start. Budgets begin anew, as after a launch.

    Args:
        run: the run.
        resources: fields of `Resources` to change; an `exclude` comes on top of what is excluded.

    Returns:
        What `launch` returns; live or done where there is nothing to go on with.

    Raises:
        JobsError: if the run's code copy is gone, or Slurm refuses.
    """
    standing = find_standing(run)
    if standing.state == "live" and standing.executor == "slurm":
        hasten(run)
    if standing.state in ("live", "done"):
        return Launched(
            run.path, standing.job_id, standing.executor, standing.state, standing.message
        )
    facts = run.read_facts()
    snapshot = Snapshot(Path(facts["snapshot"]), str(facts["snapshot_hash"]))
    if snapshot.path.parent.is_dir():
        mark_used(snapshot.path)
    if not snapshot.path.is_dir():
        raise RunError(f"{run.path}: its code copy {snapshot.path} is gone; launch it again")
    holder = run.attempt(run.latest_attempt()).holder
    known = read_json(run.spec_json(holder.token)) if holder else None
    before = JobSpec.from_json(known or facts["spec"])
    spec = _change(before, resources or {})
    job = (read_json(run.job_json(holder.token)) if holder else None) or run.read_state()
    executor = "slurm" if job.get("executor") == "slurm" else "local"
    check_request(spec, executor)
    conclude_lost(run)
    if executor == "slurm":
        if holder is None:
            raise RunError(f"{run.path} has no Slurm job to go on from: launch it again")
        return _resume_on_slurm(run, holder, snapshot, spec, is_changed=spec != before)
    number, token = run.latest_attempt() + 1, os.urandom(16).hex()
    if not run.claim_attempt(number, token, 0, by="resume"):
        return resume(run, resources)
    submission = Submission(snapshot, token, number, _words(run, number))
    return queue_attempt(run, spec, Cluster("local", executor="local"), executor, submission)


def _change(spec: JobSpec, resources: Mapping[str, Any]) -> JobSpec:
    skipped = (*spec.resources.exclude, *resources.get("exclude", ()))
    asked = {**resources, "exclude": tuple(dict.fromkeys(skipped))}
    return replace(spec, resources=replace(spec.resources, **asked))


def _resume_on_slurm(
    run: RunFolder, holder: Holder, snapshot: Snapshot, spec: JobSpec, *, is_changed: bool
) -> Launched:
    number = run.latest_attempt() + 1
    profile = read_json(run.cluster_json(holder.token))
    if is_changed and profile is None:
        raise RunError(f"{run.path}: its cluster profile is not known: launch it again instead")
    words = _words(run, number)
    token = claim_successor(run, number, holder.token, after="", by="resume")
    if token is None:
        return resume(run)
    if is_changed and profile is not None:
        write_json_atomic(run.spec_json(token), spec.to_json())
        parameters = slurm_parameters(spec, Cluster.from_json(profile))
        write_json_atomic(run.sbatch_json(token), parameters)
    job_id = submit_successor(run, token, str(snapshot.path), after="")
    run.write_state("queued", attempt=number, executor="slurm", job_id=job_id)
    return Launched(run.path, job_id, "slurm", "queued", words)


def _words(run: RunFolder, number: int) -> str:
    return f"resumed as attempt {number} from step {run.last_commit_step() or 0}"
