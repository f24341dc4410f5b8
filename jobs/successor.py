"""The next job of a run, submitted from inside the one before it.

It waits for that job's end, `afterany`, and starts within a second of it; a requeued job would wait
two minutes for Slurm's own reasons. Same run, same code copy, same parameters, other token.

Exactly one is queued: the claim of its attempt is taken before it is submitted. Who finds such a
claim without a job, its maker having been killed in between, submits it in its place: the job it
waits for is still there, so if it was submitted it is in the queue under its comment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jobs import slurm
from jobs.batch import submit_batch
from jobs.chain import repoint
from jobs.errors import RunError, SubmitError
from jobs.ledger import Ledger, comment_tag, record_job
from jobs.outcome import next_exclusions
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.submitter import UnclearSubmissionError

logger = logging.getLogger(__name__)

BY = "successor"

# Slurm sets these for the present job's devices; the next one gets its own.
_DEVICES = (
    *("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
)
# What batch script and preamble prepend to once more in every job.
_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def claim_successor(
    run: RunFolder, number: int, token: str, after: str, by: str = BY
) -> str | None:
    """Take attempt `number` for a job that is still to be submitted.

    Args:
        run: the run.
        number: the attempt.
        token: of the submission whose parameters it inherits.
        after: id of the job whose end it waits for; empty for none.
        by: what takes it.

    Returns:
        The new submission's token; None if somebody else has the attempt.
    """
    new = os.urandom(16).hex()
    for path in (run.spec_json, run.sbatch_json):
        write_json_atomic(path(new), _read(run, path(token).name))
    if (profile := read_json(run.cluster_json(token))) is not None:
        write_json_atomic(run.cluster_json(new), profile)
    if run.claim_attempt(number, new, 0, by=by, after=after):
        return new
    for path in (run.spec_json, run.sbatch_json, run.cluster_json):
        path(new).unlink(missing_ok=True)
    return None


def submit_successor(run: RunFolder, token: str, snapshot: str, after: str) -> str:
    """Submit the job of a claim that `claim_successor` took, unless it is in the queue already.

    Returns:
        Its id.

    Raises:
        SubmitError: if Slurm refuses it or does not answer.
        RunError: if the run does not know how to submit it.
    """
    from jobs.agent import NodeAgent  # what it runs leads back here

    known = read_json(run.job_json(token))
    if known is not None:
        return str(known["job_id"])
    parameters = dict(_read(run, run.sbatch_json(token).name))
    if after:
        parameters["dependency"] = f"afterany:{after}"
    else:
        parameters.pop("dependency", None)
    agent = NodeAgent(str(run.path), snapshot, token)
    ledger = Ledger(run.path.parent.parent)
    ledger.submitting(run, token, "slurm")
    with _outside_this_job():
        try:
            excluded = next_exclusions(run)
            job_id = submit_batch(run, without_nodes(parameters, excluded), agent)
        except SubmitError as error:
            job_id = _find_accepted(run, token)
            if job_id is None:
                if not isinstance(error, UnclearSubmissionError):
                    ledger.refused(run, token, "slurm")
                raise
            logger.warning("job %s is in the queue although sbatch failed: %s", job_id, error)
    ledger.submitted(run, token, "slurm", job_id)
    repoint(run, job_id)
    return job_id


def submit_if_missing(run: RunFolder, number: int, after: str) -> bool:
    """Submit the job of an attempt whose submitter was killed; not twice if it had got through.

    Args:
        run: the run.
        number: the attempt.
        after: the job that was to submit it.

    Returns:
        Whether the attempt is that of a successor to this job; if so it is in the queue now.

    Raises:
        SubmitError: if Slurm refuses it or does not answer.
    """
    claim = read_json(run.attempt(number).claim_json) or {}
    if claim.get("by") != BY or claim.get("after") != after:
        return False
    token = str(claim["token"])
    if read_json(run.job_json(token)) is None and _find_accepted(run, token) is None:
        logger.warning("attempt %d was claimed and never submitted", number)
        submit_successor(run, token, snapshot_of(run), after)
    return True


def snapshot_of(run: RunFolder) -> str:
    """Return the code copy of a run."""
    return str((read_json(run.run_json) or {}).get("snapshot", ""))


def without_nodes(parameters: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return submitit's parameters with more nodes excluded, if enough nodes are left then."""
    kept = [name for name in str(parameters.get("exclude") or "").split(",") if name]
    more = [name for name in names if name not in kept]
    if not more:
        return dict(parameters)
    partition, nodes = parameters.get("partition"), int(parameters.get("nodes", 1))
    if not slurm.has_nodes_without(partition, [*kept, *more], nodes):
        logger.warning("too few nodes without %s: they are used again", ", ".join(more))
        return dict(parameters)
    return {**parameters, "exclude": ",".join([*kept, *more])}


def _find_accepted(run: RunFolder, token: str) -> str | None:
    job_id = slurm.find_by_comment(comment_tag(token))
    if job_id is not None:
        record_job(run, token, job_id, "slurm")
    return job_id


@contextmanager
def _outside_this_job() -> Generator[None]:
    """Hide what the present job has added to the environment it was submitted with."""
    with slurm.outside_any_job():
        for name in _DEVICES:
            os.environ.pop(name, None)
        for name in _PATHS:
            if name in os.environ:
                parts = os.environ[name].split(os.pathsep)
                os.environ[name] = os.pathsep.join(dict.fromkeys(parts))
        yield


def _read(run: RunFolder, name: str) -> dict[str, Any]:
    values = read_json(run.submission / name)
    if values is None:
        raise RunError(f"{run.submission / name} is missing or broken: launch the run again")
    return values
