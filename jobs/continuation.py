"""What follows an attempt: nothing, or the next one, taken by a claim and queued exactly once.

`decide` is the policy: causes and budgets. `continue_run` is the act. A way to queue the next
attempt is one entry of `_QUEUE`: requeue under Slurm; locally the agent goes on by itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jobs import slurm
from jobs.errors import SubmitError
from jobs.node import NodeFacts
from jobs.run_folder import Holder, RunFolder, read_json
from jobs.stop import Stop, decide_ended, is_running
from jobs.verdict import Verdict

logger = logging.getLogger(__name__)

# Attempts in a row that may crash without one new COMMIT.
CRASH_BUDGET = 3

# Hangs that a restart may follow.
HANG_BUDGET = 1

CONTINUED = ("preempt", "timeout", "crash")


@dataclass(frozen=True)
class Decision:
    """What to do after an attempt.

    Attributes:
        state: the run's state from now on, as in `state.json`.
        cause: why the attempt ended.
        goes_on: whether this side has to queue the next attempt.
    """

    state: str
    cause: str
    goes_on: bool = False
    reason: str = ""


def decide(run: RunFolder, number: int, stop: Stop | None, verdict: Verdict) -> Decision:
    """Say what follows attempt `number`.

    Args:
        run: the run.
        number: the attempt that ended.
        stop: the request to stop; None if there was none.
        verdict: how its ranks ended.
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
    cause = asked or "preempt"
    if verdict.state != "stopped" and asked not in ("preempt", "timeout", "hang", "preflight"):
        cause = "crash"
    if asked == "preflight" and stop and not stop.exclude:
        return Decision("failed", "preflight", reason=stop.detail)
    seen = stop.detail if stop and cause in ("crash", "hang", "preflight") else ""
    words = [seen] if seen else []
    if verdict.state != "open" or not words:
        words.append(verdict.message)
    if spent := exhausted(run, number, cause):
        return Decision("failed", cause, reason="; ".join([spent, *words]))
    return Decision("queued", cause, goes_on=True, reason="; ".join(words))


def exhausted(run: RunFolder, number: int, cause: str) -> str | None:
    """Return why a run may not continue after this cause; None if it may."""
    if cause == "hang":
        before = [n for n in run.attempt_numbers() if n < number]
        hung = [
            n
            for n in before
            if (read_json(run.attempt(n).outcome_json) or {}).get("cause") == cause
        ]
        return f"attempt {hung[-1]} hung already" if len(hung) >= HANG_BUDGET else None
    if cause != "crash":
        return None
    streak = crash_streak(run, number)
    if streak < CRASH_BUDGET:
        return None
    commit = run.last_commit_step()
    return f"{streak} attempts in a row crashed without progress (last COMMIT: {commit})"


def crash_streak(run: RunFolder, number: int) -> int:
    """Return how many attempts up to `number`, which crashed, began at the present COMMIT.

    Attempts that ended for another cause are passed over: they neither count nor excuse.
    """
    commit = run.last_commit_step()
    streak = 0
    for each in reversed([n for n in run.attempt_numbers() if n <= number]):
        attempt = run.attempt(each)
        if (read_json(attempt.claim_json) or {}).get("commit") != commit:
            break
        outcome = read_json(attempt.outcome_json) or {}
        streak += each == number or outcome.get("cause", "crash") == "crash"
    return streak


def continue_run(run: RunFolder, number: int, node: NodeFacts, token: str) -> str | None:
    """Claim the next attempt for this submission and queue it; the last act of an attempt.

    Returns:
        The state that the run is in instead if it cannot be queued: `queued` where somebody else
        has done it, `cancelled` or `stopped` where the job is over; None if all went well.

    Raises:
        SubmitError: if Slurm does not answer or refuses.
    """
    return _QUEUE.get(node.executor, _go_on_here)(run, number, node, token)


def _requeue(run: RunFolder, number: int, node: NodeFacts, token: str) -> str | None:
    job = slurm.show_job(node.job_id)
    if job is None:
        raise SubmitError(f"Slurm does not know job {node.job_id} any more")
    if not is_running(job, node.restart):
        # an agent that outlived its execution must not requeue the next one
        ended = decide_ended(job, node.restart)
        logger.info("job %s is %s: %s", node.job_id, job.get("JobState"), ended)
        return (
            "queued" if ended == "requeued" else "cancelled" if ended == "cancelled" else "stopped"
        )
    if not run.claim_attempt(number + 1, token, node.restart + 1, by="requeue"):
        holder = run.attempt(number + 1).holder
        if holder != Holder(token, node.restart + 1):
            return "queued"
    slurm.requeue(node.job_id)
    return None


def _go_on_here(run: RunFolder, number: int, node: NodeFacts, token: str) -> str | None:
    taken = run.claim_attempt(number + 1, token, node.restart + 1, by="local")
    return None if taken else "queued"


_QUEUE = {"slurm": _requeue, "local": _go_on_here, "debug": _go_on_here}
