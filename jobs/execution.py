"""One execution of a job on one node: the attempts it takes, one after the other, to their end."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import replace
from pathlib import Path

from jobs.attempt import TICK_SEC, AttemptOnNode, Work
from jobs.chain import may_start
from jobs.conclusion import Concluding, read_spec, reconcile
from jobs.errors import RunError, SnapshotError
from jobs.node import NodeFacts
from jobs.outcome import Decision
from jobs.run_folder import RunFolder, create_json, read_json
from jobs.signals import SignalPipe
from jobs.snapshot import verify_snapshot
from jobs.successor import submit_if_missing

logger = logging.getLogger(__name__)

# How long the other nodes wait for node 0 to take the attempt.
CLAIM_PATIENCE_SEC = 600


def execute(
    run: RunFolder, snapshot: Path, token: str, node: NodeFacts, signals: SignalPipe
) -> str:
    """Return the state in which this execution leaves the run.

    Args:
        run: the run.
        snapshot: the code copy that the ranks run in.
        token: of the submission.
        node: this node.
        signals: caught since before.

    Raises:
        RunError: if it is no run folder.
        SystemExit: with 1 if the run has failed, so that Slurm shows it.
    """
    home = str(run.read_facts()["home"])
    work = Work(run=run, spec=read_spec(run, token), snapshot=snapshot, home=home, token=token)
    if not may_start(run, node, token, signals):
        return "waiting"
    return run_node(work, node, signals)


def run_node(work: Work, node: NodeFacts, signals: SignalPipe) -> str:
    """Run attempts on this node until the run ends or somebody else goes on with it.

    Raises:
        SystemExit: with 1 if the run has failed, so that Slurm shows it.
    """
    early: list[signal.Signals] = []
    while True:
        number = enter_attempt(work.run, node, work.token, signals, early)
        if number is None:
            return "superseded"
        if node.index == 0:
            _begin(work, node, number)
        logger.info("attempt %d on node %d of %d (%s)", number, node.index, node.count, node.name)
        decision = AttemptOnNode(work, node, number, signals).run(early)
        if decision is None:
            return "left"
        if decision.state == "failed":
            raise SystemExit(1)
        if not _goes_on_here(decision, node):
            return decision.state
        node = replace(node, restart=node.restart + 1)
        early = []


def _begin(work: Work, node: NodeFacts, number: int) -> None:
    """Check the code copy and say that the attempt runs; a changed copy ends the run."""
    try:
        verify_snapshot(work.snapshot)
    except SnapshotError as error:
        decision = Decision("failed", "snapshot", reason=str(error))
        Concluding(work.run, number, node, work.token).end(decision)
        raise SystemExit(1) from error
    where = {"job_id": node.job_id, "executor": node.executor, "nodes": node.count}
    work.run.write_state("running", attempt=number, **where)


def _goes_on_here(decision: Decision, node: NodeFacts) -> bool:
    return decision.goes_on and node.executor != "slurm"


def enter_attempt(
    run: RunFolder, node: NodeFacts, token: str, signals: SignalPipe, early: list[signal.Signals]
) -> int | None:
    """Return the attempt that this execution of the job is; None if the run is not ours any more.

    Node 0 claims one if there is none: Slurm has restarted the job by itself. The others wait.

    Args:
        run: the run.
        node: this node.
        token: of the submission.
        signals: listened to while waiting.
        early: takes the signals that come meanwhile.

    Raises:
        RunError: if node 0 takes none in ten minutes.
    """
    until = time.time() + CLAIM_PATIENCE_SEC
    while time.time() < until:
        latest = run.latest_attempt()
        holder = run.attempt(latest).holder if latest else None
        if holder is not None and holder.token != token:
            logger.info("attempt %d belongs to a newer launch: leaving", latest)
            if node.index == 0 and node.executor == "slurm":
                # this job was to submit it, and was killed and restarted in between
                submit_if_missing(run, latest, after=node.job_id)
            return None
        if run.read_state().get("state") == "done":
            logger.info("the run is done: leaving")
            return None
        number = run.find_claim(token, node.restart)
        if number is not None and number != latest:
            return None
        if number is not None and (node.executor != "slurm" or _starts(run, number, node)):
            return number
        if number is not None and run.attempt(number).start_json.exists():
            logger.info("attempt %d is run by another job: leaving", number)
            return None
        if number is None and node.index == 0:
            if latest and not _may_restart(run, latest, node, token):
                return None
            run.claim_attempt(latest + 1, token, node.restart, by="restart")
        else:
            early += signals.wait(TICK_SEC)
    raise RunError(f"{run.path}: node 0 has not taken an attempt in {CLAIM_PATIENCE_SEC} s")


def _starts(run: RunFolder, number: int, node: NodeFacts) -> bool:
    """Return whether this execution runs the attempt: the first that comes with its claim does.

    A submission whose answer was lost may have become two jobs; only one of them gets in.
    """
    path = run.attempt(number).start_json
    own = {"job_id": node.job_id, "restart": node.restart}
    if node.index == 0 and create_json(path, own):
        return True
    return read_json(path) == own


def _may_restart(run: RunFolder, number: int, node: NodeFacts, token: str) -> bool:
    """Conclude the attempt that Slurm has restarted the job from; False if the run ends there."""
    held = run.attempt(number).holder
    if held is None or held.token != token:
        return True
    before = replace(node, restart=held.restart)
    decision = reconcile(Concluding(run, number, before, token))
    if decision is None or decision.state == "queued":
        return True
    logger.info("the run is %s: leaving", decision.state)
    return False
