"""The end of an attempt, by whoever is there to see it: say why, write it down, queue what follows.

Node 0's agent does it; if that was killed, the batch shell; if Slurm has killed and restarted the
whole job, the next execution; if nothing of it is left, whoever resumes the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobs import slurm
from jobs.blame import silent_nodes
from jobs.budgets import make_budgets
from jobs.chain import end_children
from jobs.continuation import continue_run, decide
from jobs.errors import RunError, SubmitError
from jobs.job_log import failed_nodes, logged_cause, read_job_log
from jobs.node import NodeFacts
from jobs.outcome import Decision, read_agents, write_outcome
from jobs.rendezvous import expand_nodes
from jobs.run_folder import RunFolder, read_json
from jobs.spec import JobSpec
from jobs.stop import Execution, Stop, decide_ended, decide_stop, read_stop, settle_cause
from jobs.verdict import Verdict, read_verdict

logger = logging.getLogger(__name__)


def read_spec(run: RunFolder, token: str) -> JobSpec:
    """Return what the submission with this token runs.

    Raises:
        RunError: if the run does not know the submission.
    """
    values = read_json(run.spec_json(token))
    if values is None:
        raise RunError(f"{run.path} knows no submission {token}")
    return JobSpec.from_json(values)


@dataclass(frozen=True)
class Concluding:
    """An attempt that has ended, and the execution of a job that ran it.

    Attributes:
        run: the run.
        number: the attempt.
        node: the execution: job id and restart count.
        token: of its submission.
    """

    run: RunFolder
    number: int
    node: NodeFacts
    token: str

    def conclude(self, stop: Stop | None, verdict: Verdict) -> Decision:
        """Write down how the attempt ended and queue what follows, as its last act.

        Returns:
            The decision, corrected if the job turned out to be requeued or cancelled already.

        Raises:
            SubmitError: if the next attempt cannot be queued from here; what was written still
                says that the run goes on.
        """
        stop, blamed = self.settle(stop)
        decision = self._decide(stop, verdict)
        self.note(decision, stop, blamed)
        words = decision.state, decision.cause, decision.reason
        logger.info("attempt %d: %s (%s) %s", self.number, *words)
        if not decision.goes_on:
            return decision
        instead = self.go_on()
        if instead is None:
            return decision
        cause = "cancelled" if instead == "cancelled" else decision.cause
        corrected = Decision(instead, cause, goes_on=False, reason=decision.reason)
        self.note(corrected, stop, blamed)
        return corrected

    def end(self, decision: Decision) -> None:
        """Write down an end that needs no judging, such as a code copy that was changed."""
        self.note(decision, None, ())

    def go_on(self) -> str | None:
        """Queue the next attempt; see `continue_run`."""
        via = read_spec(self.run, self.token).resume_via
        return continue_run(self.run, self.number, self.node, self.token, via)

    def settle(self, stop: Stop | None) -> tuple[Stop | None, list[str]]:
        """Return the cause as Slurm's own words in the job's log have it, and the bad nodes."""
        blamed = list(stop.exclude) if stop is not None else []
        if self.node.executor != "slurm":
            return stop, blamed
        text = read_job_log(self.run, self.node.job_id, self.node.restart)
        logged = logged_cause(text)
        if stop is not None:
            stop = settle_cause(stop, logged)
        elif logged is not None:
            stop = Stop(logged, None, "log")
        agents = read_agents(self.run.attempt(self.number))
        names = [str(agent.get("name")) for agent in agents]
        if stop is not None and stop.reason in ("node_fail", "crash"):
            blamed += self._name(failed_nodes(text), names)
        if stop is not None and stop.reason == "node_fail" and not blamed:
            blamed += slurm.failed_nodes(names) or silent_nodes(agents)
        return stop, list(dict.fromkeys(blamed))

    def note(self, decision: Decision, stop: Stop | None, blamed: Sequence[str]) -> None:
        """Write `outcome.json` and `state.json`; end what waits for a run that ends without one."""
        budgets = make_budgets(read_spec(self.run, self.token).budgets)
        write_outcome(
            self.run, self.number, self.node, decision, stop=stop, blamed=blamed, budgets=budgets
        )
        end_children(self.run)

    def _decide(self, stop: Stop | None, verdict: Verdict) -> Decision:
        budgets = make_budgets(read_spec(self.run, self.token).budgets)
        return decide(self.run, self.number, stop, verdict, budgets)

    def _name(self, found: Sequence[str], names: Sequence[str]) -> list[str]:
        """Return the single nodes of srun's lists, those only that the job has."""
        single = [name for text in found for name in expand_nodes(text)]
        return [name for name in single if name in names or not names]


def ask_slurm(node: NodeFacts, signum: int, execution: Execution) -> Stop:
    """Return why a signal came, by Slurm's present answer; inferred where it gives none."""
    try:
        job = slurm.show_job(node.job_id)
    except SubmitError as error:
        logger.warning("cause of the stop is inferred: %s", error)
        job = None
    return decide_stop(signum, job, execution, time.time())


def reconcile(ended: Concluding) -> Decision | None:
    """Write down the end of an attempt that nobody was left to conclude.

    Returns:
        What should follow; the caller queues it, or is it. None if it had been concluded.
    """
    run, number = ended.run, ended.number
    attempt = run.attempt(number)
    if attempt.outcome_json.exists():
        return None
    spec = read_spec(run, ended.token)
    stop = read_stop(attempt.stop_json)
    if ended.node.executor == "slurm" and (stop is None or stop.source == "inferred"):
        stop = _ask_afterwards(ended) or stop
    stop, blamed = ended.settle(stop)
    verdict = read_verdict(run, attempt, spec.resources.world_size)
    decision = decide(run, number, stop, verdict, make_budgets(spec.budgets))
    ended.note(decision, stop, blamed)
    logger.info("attempt %d, found ended: %s (%s)", number, decision.state, decision.cause)
    return decision


def _ask_afterwards(ended: Concluding) -> Stop | None:
    try:
        job = slurm.show_job(ended.node.job_id)
    except SubmitError:
        return None
    if job is None:
        return None
    reason = decide_ended(job, ended.node.restart)
    seen = f"found ended, job {job.get('JobState')}, restarts {job.get('Restarts')}"
    return Stop(reason, detail=seen) if reason else None


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
