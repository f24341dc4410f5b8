"""What is true of a run: its own words, held against the queue, the accounting and its process.

A state that says that a run goes on stays in its folder when the job is killed, purged or cancelled
from outside: it is believed only while the job is in the queue or the process lives. A state that
says how the run ended always counts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jobs.ledger import adopt, comment_tag
from jobs.queue_view import Queue
from jobs.run_facts import RunFacts
from jobs.run_folder import read_json
from jobs.slurm import END_CAUSES, QueuedJob
from jobs.standing import FINAL, LIVE, is_process_live, submitting

logger = logging.getLogger(__name__)

# In the order in which they are shown.
STATES = (
    *("running", "queued", "waiting", "unknown", "lost", "failed"),
    *("stopped", "cancelled", "done"),
)
GOING_ON = ("running", "queued", "waiting", "unknown")

_WAITING_IN_SLURM = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")


@dataclass(frozen=True)
class Judgement:
    """A run's state, one of `STATES`, and why it is over if it is."""

    state: str
    cause: str = ""
    reason: str = ""


def is_over(facts: RunFacts) -> bool:
    """Return whether the run has written down its end and nobody has taken it up again."""
    state = facts.state
    if facts.written == "done":
        return True
    if facts.written not in FINAL:
        return False
    job_id, attempt = state.get("job_id"), state.get("attempt")
    says_whose = job_id is not None or attempt is not None
    return not says_whose or str(job_id) == facts.job_id or attempt == facts.attempt


def needs_queue(facts: RunFacts) -> bool:
    """Return whether only Slurm can say how the run stands."""
    return not is_over(facts) and facts.attempt > 0 and facts.executor in ("slurm", "")


def as_written(facts: RunFacts) -> Judgement:
    """Return what the run itself says."""
    cause, reason = facts.state.get("cause"), facts.state.get("reason")
    if facts.written not in STATES:
        return Judgement("queued" if facts.attempt else "lost")
    if facts.written in GOING_ON:
        return Judgement(facts.written)
    cause = "" if cause == facts.written else cause
    return Judgement(facts.written, str(cause or ""), str(reason or ""))


def judge_here(facts: RunFacts) -> Judgement:
    """Judge a run that is over, or whose process is on this machine."""
    if is_over(facts) or (facts.attempt == 0 and facts.written):
        return as_written(facts)
    if facts.attempt == 0:
        return Judgement("lost", reason="its launch never reached the queue")
    if not facts.job:
        return _judge_submitting(facts, Queue()) or judge_gone(facts, "")
    if is_process_live(facts.run, facts.attempt, facts.job):
        return Judgement(facts.written if facts.written in GOING_ON else "running")
    return judge_gone(facts, "")


def judge_by_queue(facts: RunFacts, queue: Queue) -> Judgement:
    """Judge a run of Slurm by the queue as it was seen after the facts were read."""
    job = queue.find(facts.job_id) if facts.job_id else queue.by_tag.get(comment_tag(facts.token))
    if job is None and not facts.job_id:
        word = _judge_submitting(facts, queue)
        if word is not None:
            return word
    if job is None:
        return judge_gone(facts, "")
    if not facts.job_id:
        _adopt(facts, job)
    if job.state not in LIVE:
        return judge_gone(facts, job.state.split()[0])
    if job.state in _WAITING_IN_SLURM or (job.state == "COMPLETING" and facts.written == "queued"):
        return Judgement("waiting" if facts.written == "waiting" else "queued")
    return Judgement("running")


def judge_gone(facts: RunFacts, end: str) -> Judgement:
    """Judge a run that says that it goes on and whose job or process is no more.

    Args:
        facts: the run.
        end: Slurm's word for how the job ended; empty if nobody knows.
    """
    from jobs.stop import read_stop  # what a table without lost runs does without

    stop = read_stop(facts.run.attempt(facts.attempt).stop_json)
    asked = stop.reason if stop else ""
    if asked == "user":
        return Judgement("stopped", "user", "python -m jobs stop")
    if asked == "cancelled" or end == "CANCELLED":
        by_us = stop is not None and asked == "cancelled" and stop.source == "user"
        return Judgement("cancelled", "", "python -m jobs cancel" if by_us else "scancel")
    commit = facts.run.last_commit_step()
    saved = "nothing saved" if commit is None else f"saved at step {commit}"
    how = f"ended as {end}" if end else "gone without an end mark"
    if not facts.job_id:
        how = "its launch never reached the queue"
    return Judgement("lost", END_CAUSES.get(end, ""), f"{how}, {saved}")


def _judge_submitting(facts: RunFacts, queue: Queue) -> Judgement | None:
    claim = read_json(facts.run.attempt(facts.attempt).claim_json) or {}
    before = queue.find(str(claim.get("after") or ""))  # the job that is to submit the next one
    if before is not None and before.state in LIVE:
        return Judgement("queued", reason=f"goes on after job {before.job_id}")
    standing = submitting(facts.run, claim)
    return Judgement("queued", reason="being submitted") if standing.state == "live" else None


def _adopt(facts: RunFacts, job: QueuedJob) -> None:
    """Take up the job of a launcher that died between sbatch and its own note."""
    facts.job.update(job_id=job.job_id, executor="slurm")
    try:
        adopt(facts.run, facts.token, job.job_id)
    except OSError as error:  # somebody else's run: it is found by its tag every time
        logger.debug("%s: %s", facts.path, error)
