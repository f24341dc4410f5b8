"""Runs that wait for other runs.

A run may go on under a new job id, and the job that hands over ends with success though the run
is not done: what a job's exit says and what a run waits for are two things. So the dependency in
Slurm is `afterany` on the parents' present jobs, and only says when to look again; whether a run
may start its own agent decides, from the parents' `state.json`, before anything else:

    all parents done            it starts
    one is over but not done    it ends as cancelled, with the reason, and starts nothing
    one is still at work        it puts itself back behind that one's present job

Of a sweep it may be enough that some members are done; whoever then starts first links the best
one (`jobs.member_group`).

With `afterok` a parent would have to leave in failure whenever it hands over, and a child that
Slurm drops by itself could not say why. To spare the nodes, a parent that ends for good takes the
jobs of its children out of the queue, and one that goes on elsewhere re-points them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.errors import RunError, SubmitError
from jobs.member_group import groups_of, link_best
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.signals import SignalPipe
from jobs.standing import FINAL, Standing, find_standing

logger = logging.getLogger(__name__)

LOOK_SEC = 2.0
# A network disk may show another node's last word this late.
WORD_PATIENCE_SEC = 60.0


def parents_of(run: RunFolder) -> list[RunFolder]:
    """Return the runs that have to be done before this one starts."""
    facts = read_json(run.run_json) or {}
    return [RunFolder(Path(path)) for path in facts.get("parents", [])]


def children_of(run: RunFolder) -> list[RunFolder]:
    """Return the runs that have been told to wait for this one."""
    notes = [read_json(path) or {} for path in sorted(run.children.glob("*.json"))]
    return [RunFolder(Path(note["run"])) for note in notes if "run" in note]


def line_up(run: RunFolder, parents: Iterable[RunFolder]) -> str:
    """Make a run known to its parents.

    Returns:
        The dependency for its job; empty if no parent has a job to wait for.
    """
    parents = list(parents)
    for parent in parents:
        note = parent.children / f"{run.path.parent.name}.{run.path.name}.json"
        write_json_atomic(note, {"run": str(run.path)})
    return _dependency([_open_job(parent) for parent in parents])


def follow_up(run: RunFolder, job_id: str, dependency: str) -> None:
    """Once a run is queued: re-point what waits for it, and itself if a parent moved meanwhile.

    Args:
        run: the run.
        job_id: its job.
        dependency: what that job was queued with.
    """
    repoint(run, job_id)
    now = _dependency([_open_job(parent) for parent in parents_of(run)]) if dependency else ""
    if now and now != dependency:
        _try_to_point(job_id, now)


def repoint(run: RunFolder, job_id: str) -> None:
    """Have the jobs that wait for a run wait for its new job; to be called once that is queued.

    A child that cannot be re-pointed starts too early, looks, and puts itself back.
    """
    for child in children_of(run):
        waiting = _open_job(child)
        if waiting is None or child.read_state().get("state") != "waiting":
            continue
        jobs = [
            job_id if parent.path == run.path else _open_job(parent) for parent in parents_of(child)
        ]
        _try_to_point(waiting, _dependency(jobs))


def end_children(run: RunFolder) -> None:
    """Take what waits for a run out of the queue if the run is over and not done."""
    state = run.read_state()
    if state.get("state") not in FINAL or state["state"] == "done":
        return
    reason = _describe_end(run, state["state"], state.get("reason"))
    for child in children_of(run):
        if child.read_state().get("state") != "waiting" or _does_without(child, run):
            continue
        job_id = _open_job(child)
        _give_up(child, job_id or "", "slurm", reason)
        if job_id is not None:
            try:
                slurm.cancel(job_id)
            except SubmitError as error:
                logger.warning("job %s will find out by itself: %s", job_id, error)
        end_children(child)


def may_start(run: RunFolder, node: NodeFacts, token: str, signals: SignalPipe) -> bool:
    """Return whether the parents are through; if not, node 0 has seen to what follows.

    Args:
        run: the run.
        node: this node; the others do as node 0 says.
        token: of the submission.
        signals: listened to while waiting.
    """
    parents = parents_of(run)
    has_asked, is_back = False, False
    lost_since: float | None = None
    while parents and not _has_begun(run) and _is_ours(run, token):
        outlook = _look(run, parents)
        lost_since = (lost_since or time.time()) if outlook.state == "lost" else None
        is_over = lost_since is not None and time.time() >= lost_since + WORD_PATIENCE_SEC
        if is_over:
            outlook = _look(run, parents, are_lost_over=True)
        if outlook.state == "done" and node.index == 0:
            outlook = _link_best_members(run)
        if outlook.state == "done" and _has_links(run):
            return True
        if node.index == 0 and (outlook.state == "over" or is_over):
            logger.info("not started: %s", outlook.reason)
            _give_up(run, node.job_id, node.executor, outlook.reason)
            end_children(run)
            return False
        if node.index == 0 and outlook.state == "live" and not has_asked:
            has_asked, is_back = True, _put_back(run, node, token, parents, outlook.reason)
        if node.index != 0 and run.read_state().get("state") == "cancelled":
            return False
        if signals.wait(LOOK_SEC):
            if node.index == 0 and not is_back:
                reason = f"stopped while it waited: {outlook.reason}"
                _give_up(run, node.job_id, node.executor, reason)
            return False
    return True


@dataclass(frozen=True)
class _Outlook:
    """What the parents promise: done, live, over, or lost (gone, perhaps with a word to come)."""

    state: str
    reason: str = ""


def _look(run: RunFolder, parents: Sequence[RunFolder], *, are_lost_over: bool = False) -> _Outlook:
    outlooks = {parent.path: _look_at(parent) for parent in parents}
    dispensable = ("over", "lost") if are_lost_over else ("over",)
    for group in groups_of(run):
        members = [path for path in group.members if path in outlooks]
        if group.skips_failed and any(outlooks[path].state == "done" for path in members):
            outlooks |= {p: _Outlook("done") for p in members if outlooks[p].state in dispensable}
    for state in ("over", "lost", "live"):
        for outlook in outlooks.values():
            if outlook.state == state:
                return outlook
    return _Outlook("done")


def _link_best_members(run: RunFolder) -> _Outlook:
    try:
        for group in groups_of(run):
            if (best := link_best(group)) is not None:
                logger.info("best by %s: %s", group.best, best)
    except RunError as error:
        return _Outlook("over", str(error))
    return _Outlook("done")


def _has_links(run: RunFolder) -> bool:
    links = [group.link for group in groups_of(run) if group.link is not None]
    return all(link.is_symlink() for link in links)


def _does_without(child: RunFolder, run: RunFolder) -> bool:
    """Return whether a child starts although this run has failed, if another member is done."""
    return any(group.skips_failed and run.path in group.members for group in groups_of(child))


def _look_at(parent: RunFolder) -> _Outlook:
    state = parent.read_state()
    if state.get("state") == "done":
        return _Outlook("done")
    try:
        standing = find_standing(parent)
    except SubmitError as error:  # Slurm does not answer here: the files have to do
        logger.warning("%s", error)
        is_over = state.get("state") in FINAL
        standing = Standing("idle" if is_over else "live", str(state.get("state")))
    name = f"{parent.path.parent.name}/{parent.path.name}"
    if standing.state in ("live", "done"):
        return _Outlook(standing.state, f"waits for {name}: {standing.message}")
    state = parent.read_state()
    if state.get("state") in FINAL:
        return _Outlook("over", _describe_end(parent, state["state"], state.get("reason")))
    return _Outlook("lost", f"{name}: {standing.message or 'it never started'}")


def _describe_end(run: RunFolder, state: str, reason: object) -> str:
    words = f": {reason}" if reason else ""
    return f"{run.path.parent.name}/{run.path.name} is {state}{words}"


def _has_begun(run: RunFolder) -> bool:
    """Return whether an attempt has had processes: then the parents were done, and may be gone."""
    return any(run.attempt(each).node_json(0).exists() for each in run.attempt_numbers())


def _is_ours(run: RunFolder, token: str) -> bool:
    latest = run.latest_attempt()
    holder = run.attempt(latest).holder if latest else None
    return holder is None or holder.token == token


def _put_back(
    run: RunFolder, node: NodeFacts, token: str, parents: Sequence[RunFolder], reason: str
) -> bool:
    """Requeue this job behind its parents; False if it has to wait here instead.

    The attempt that this execution is gets an outcome, so that no budget counts it as a crash.
    """
    number = run.find_claim(token, node.restart)
    if number is None:
        number = run.latest_attempt() + 1
        run.claim_attempt(number, token, node.restart, by="waiting")
    where = {"attempt": number, "job_id": node.job_id, "executor": node.executor}
    run.write_state("waiting", **where, reason=reason)
    if node.executor != "slurm":
        return False
    _write_outcome(run, number, where, "waiting", reason)
    try:
        slurm.requeue(node.job_id)
    except SubmitError as error:
        logger.warning("waiting on the nodes: %s", error)
        run.attempt(number).outcome_json.unlink()
        return False
    logger.info("back into the queue: %s", reason)
    # Slurm takes it while the job is still completing, and keeps it (seen on 22.05)
    _try_to_point(node.job_id, _dependency([_open_job(parent) for parent in parents]))
    return True


def _give_up(run: RunFolder, job_id: str, executor: str, reason: str) -> None:
    number = run.latest_attempt()
    where = {"attempt": number, "job_id": job_id, "executor": executor}
    _write_outcome(run, number, where, "cancelled", reason)
    run.write_state("cancelled", **where, cause="parent", reason=reason)


def _write_outcome(
    run: RunFolder, number: int, where: Mapping[str, Any], state: str, reason: str
) -> None:
    cause = "parent" if state == "cancelled" else "waiting"
    facts = {"state": state, "cause": cause, "reason": reason, "ended": time.time()}
    write_json_atomic(run.attempt(number).outcome_json, {**facts, "job_id": where["job_id"]})


def _open_job(run: RunFolder) -> str | None:
    """Return the Slurm job that holds a run's newest attempt; None if the run is over."""
    if run.read_state().get("state") in FINAL:
        return None
    claim = read_json(run.attempt(run.latest_attempt()).claim_json) or {}
    job = read_json(run.job_json(str(claim.get("token")))) or {}
    return str(job["job_id"]) if job.get("executor") == "slurm" else None


def _dependency(jobs: Iterable[str | None]) -> str:
    known = [job for job in jobs if job is not None]
    return f"afterany:{':'.join(known)}" if known else ""


def _try_to_point(job_id: str, dependency: str) -> None:
    if not dependency:
        return
    try:
        slurm.set_dependency(job_id, dependency)
    except SubmitError as error:
        logger.warning("job %s still waits for its former parents: %s", job_id, error)
