"""Go on with a run that nobody is at work on, from outside of any job."""

from __future__ import annotations

from jobs.conclusion import Concluding, reconcile
from jobs.errors import RunError
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, read_json
from jobs.standing import Standing, find_standing, hasten
from jobs.successor import claim_successor, snapshot_of, submit_successor


def conclude_lost(run: RunFolder) -> None:
    """Write down how the newest attempt ended if nobody could: all that ran it was killed.

    An attempt that never started has no end.
    """
    latest = run.latest_attempt()
    attempt, holder = run.attempt(latest), run.attempt(latest).holder
    if not latest or holder is None or not attempt.node_json(0).exists():
        return
    job = read_json(run.job_json(holder.token))
    if job is None or not run.spec_json(holder.token).exists():
        return
    executor, job_id = str(job["executor"]), str(job["job_id"])
    node = NodeFacts(executor=executor, job_id=job_id, restart=holder.restart)
    reconcile(Concluding(run, latest, node, holder.token))


def resume(run: RunFolder) -> Standing:
    """Queue the next attempt of a Slurm run as its last one was: same code, same resources.

    A requeued job that Slurm holds back is told to start. Budgets begin anew, as after a launch.

    Returns:
        What is going on with the run now: live or done.

    Raises:
        RunError: if it has not run under Slurm so far; its launcher can go on with it.
        SubmitError: if Slurm refuses the job or does not answer.
    """
    standing = find_standing(run)
    if standing.state == "live":
        hasten(run)
    if standing.state in ("live", "done"):
        return standing
    latest = run.latest_attempt()
    holder = run.attempt(latest).holder if latest else None
    if holder is None or not run.sbatch_json(holder.token).exists():
        raise RunError(f"{run.path} has no Slurm job to go on from: launch it again")
    conclude_lost(run)
    token = claim_successor(run, latest + 1, holder.token, after="", by="resume")
    if token is None:
        return find_standing(run)
    job_id = submit_successor(run, token, snapshot_of(run), after="")
    run.write_state("queued", attempt=latest + 1, executor="slurm", job_id=job_id)
    return Standing("live", f"resumed as attempt {latest + 1}: job {job_id}", job_id, "slurm")
