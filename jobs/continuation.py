"""What follows an attempt: nothing, or the next one, taken by a claim and queued exactly once.

`decide` is the policy: causes and budgets. `continue_run` is the act, the last one of an attempt.
Under Slurm there are two ways to queue the next attempt: a successor, submitted from inside the
job, or a requeue of the job; a run names the one it wants, `auto` takes the first that works.
Locally the agent goes on by itself.
"""

from __future__ import annotations

import logging
from typing import Any

from jobs import slurm
from jobs.budgets import Budgets, exhausted
from jobs.errors import SubmitError
from jobs.node import NodeFacts
from jobs.outcome import Decision, ended_attempt, next_exclusions, past_attempts
from jobs.run_folder import Holder, RunFolder, read_json, write_json_atomic
from jobs.stop import Stop, decide_ended, is_running
from jobs.successor import claim_successor, snapshot_of, submit_if_missing, submit_successor
from jobs.verdict import Verdict

logger = logging.getLogger(__name__)

CONTINUED = ("preempt", "timeout", "node_fail", "crash", "hang", "preflight")

# A job that is over for these reasons cannot be requeued, but its run goes on in a successor.
_ENDED_BUT_CONTINUED = ("preempt", "timeout", "node_fail", "crash")


def decide(
    run: RunFolder,
    number: int,
    stop: Stop | None,
    verdict: Verdict,
    budgets: Budgets | None = None,
) -> Decision:
    """Say what follows attempt `number`.

    Args:
        run: the run.
        number: the attempt that ended.
        stop: the request to stop; None if there was none.
        verdict: how its ranks ended.
        budgets: of the run; None takes the defaults.
    """
    if verdict.state == "done":
        return Decision("done", "done", reason=verdict.message)
    asked = stop.reason if stop else None
    if asked in ("user", "cancelled"):
        state = "cancelled" if asked == "cancelled" else "stopped"
        return Decision(state, asked, reason=verdict.message)
    if asked == "requeued":
        return Decision("queued", "requeued", reason="Slurm has put the job back itself")
    if not verdict.may_retry:
        return Decision("failed", "crash", reason=verdict.message)
    if stop and asked == "preflight" and not stop.exclude:
        return Decision("failed", "preflight", reason=stop.detail)  # no node is fit: it is the job
    # ranks that stopped though nobody asked them to were told by something that went wrong
    cause = asked or "crash"
    words = [stop.detail] if stop and cause not in ("preempt", "timeout") and stop.detail else []
    if verdict.state != "open" or not words:
        words.append(verdict.message)
    history = [*past_attempts(run, number), ended_attempt(run, number, cause)]
    if spent := exhausted(budgets or Budgets(), history):
        return Decision("failed", cause, reason="; ".join([spent, *words]))
    return Decision("queued", cause, goes_on=True, reason="; ".join(words))


def continue_run(
    run: RunFolder, number: int, node: NodeFacts, token: str, via: str = "auto"
) -> str | None:
    """Claim the next attempt and queue it; the last act of an attempt.

    Args:
        run: the run.
        number: the attempt that has ended.
        node: of the job that ran it.
        token: of its submission.
        via: auto, successor or requeue.

    Returns:
        The state that the run is in instead if it cannot be queued: `queued` where somebody else
        has done it, `cancelled` where somebody has cancelled the job; None if all went well.

    Raises:
        SubmitError: if Slurm does not answer or refuses.
    """
    if node.executor != "slurm":
        taken = run.claim_attempt(number + 1, token, node.restart + 1, by="local")
        return None if taken else "queued"
    if run.attempt(number + 1).claim_json.exists():
        return _finish_claimed(run, number, node, token)
    job = slurm.show_job(node.job_id)
    if job is None:
        raise SubmitError(f"Slurm does not know job {node.job_id} any more")
    ended = decide_ended(job, node.restart)
    if ended == "requeued":
        logger.info("job %s is in the queue again by itself", node.job_id)
        _exclude(run, node, token)
        return "queued"
    if ended not in (None, *_ENDED_BUT_CONTINUED):
        logger.info("job %s is %s: %s", node.job_id, job.get("JobState"), ended)
        return ended
    if via == "requeue" and ended is None:
        return _requeue(run, number, node, token)
    try:
        return _succeed(run, number, node, token)
    except SubmitError as error:
        if via == "successor" or ended is not None:
            raise
        logger.warning("cannot submit from here, requeuing instead: %s", error)
        return _requeue(run, number, node, token, instead_of_successor=True)


def _finish_claimed(run: RunFolder, number: int, node: NodeFacts, token: str) -> str | None:
    """Complete a continuation that somebody took; its maker may have been killed in between."""
    if submit_if_missing(run, number + 1, after=node.job_id):
        return None
    if run.attempt(number + 1).holder == Holder(token, node.restart + 1):
        job = slurm.show_job(node.job_id)
        if job is not None and is_running(job, node.restart):
            slurm.requeue(node.job_id)
        return None
    return "queued"


def _succeed(run: RunFolder, number: int, node: NodeFacts, token: str) -> str | None:
    new = claim_successor(run, number + 1, token, after=node.job_id)
    if new is None:
        return "queued"
    job_id = submit_successor(run, new, snapshot_of(run), after=node.job_id)
    logger.info("attempt %d is job %s, after this one", number + 1, job_id)
    return None


def _requeue(
    run: RunFolder, number: int, node: NodeFacts, token: str, *, instead_of_successor: bool = False
) -> str | None:
    holder, following = Holder(token, node.restart + 1), run.attempt(number + 1)
    if instead_of_successor:
        # the claim was ours, for a job that Slurm does not have: it now names this one
        claim = read_json(following.claim_json) or {}
        facts = {"token": holder.token, "restart": holder.restart, "by": "requeue"}
        write_json_atomic(following.claim_json, {**claim, **facts})
    elif not run.claim_attempt(number + 1, holder.token, holder.restart, by="requeue"):
        return "queued"
    slurm.requeue(node.job_id)
    _exclude(run, node, token)
    return None


def _exclude(run: RunFolder, node: NodeFacts, token: str) -> None:
    """Keep bad nodes from a job that is in the queue again; if that fails, it goes on with them."""
    names = next_exclusions(run)
    asked: dict[str, Any] = (read_json(run.spec_json(token)) or {}).get("resources") or {}
    if not names or not slurm.has_nodes_without(asked.get("partition"), names, node.count):
        return
    try:
        slurm.exclude_nodes(node.job_id, [*(asked.get("exclude") or ()), *names])
    except SubmitError as error:
        logger.warning("could not exclude %s: %s", ", ".join(names), error)
