"""How runs stand: their own words, held against one look at the queue.

A state that a run has written stays there when it is killed, purged or cancelled from outside. So
for every run that says that it goes on, its job has to be in the queue, or its process alive;
otherwise it is `lost`, whatever it says. The other way round a run's own end always counts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import slurm
from jobs.accounting import find_ends
from jobs.errors import SubmitError
from jobs.judgement import (
    GOING_ON,
    STATES,
    Judgement,
    as_written,
    judge_by_queue,
    judge_gone,
    judge_here,
    needs_queue,
)
from jobs.ledger import adopt_found
from jobs.queue_view import CallBudget, Queue, is_held_back, read_queue
from jobs.run_facts import RunFacts, read_all, read_cause, read_facts, read_last_step
from jobs.slurm import QueuedJob
from jobs.standing import LIVE

if TYPE_CHECKING:
    from jobs.array_view import WaitingArray

logger = logging.getLogger(__name__)

# Between two looks at the queue of a command that stays: leaves room for lifting a wait.
LOOK_SEC = 40.0


@dataclass(frozen=True)
class RunStatus:
    """One run, in one row.

    Attributes:
        state: one of `jobs.judgement.STATES`. lost: it says that it goes on and nobody is at work
            on it; unknown: Slurm does not answer; waiting: for another run.
        attempt: the newest one; 0 if there is none.
        executor: slurm, local or debug.
        job_id: Slurm's number, or the process id.
        step: the last step, of the newest metrics or checkpoint.
        steps: how many it will make; None if it does not say.
        left_sec: of training, as the trainer expects.
        saved_step: the newest checkpoint when the state was written.
        cause: why it stopped the last time, or is over.
        reason: the same in words.
        pending: Slurm's reason why the job waits.
        starts: when it is expected to start, seconds since the epoch.
        nodes: Slurm's list.
        partition: where it runs or waits.
        since: when this state began, seconds since the epoch; the last sign of life of a run that
            could not write down its end.
    """

    kind: str
    name: str
    path: str
    state: str
    attempt: int = 0
    executor: str = ""
    job_id: str = ""
    step: int | None = None
    steps: int | None = None
    left_sec: float | None = None
    clips_per_sec: float | None = None
    loss: float | None = None
    saved_step: int | None = None
    cause: str = ""
    reason: str = ""
    pending: str = ""
    starts: float | None = None
    nodes: str = ""
    partition: str = ""
    since: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return every field, by name."""
        return dict(vars(self))


class StatusReader:
    """Reads how runs stand; a reader that is kept asks Slurm only every `LOOK_SEC`.

    Attributes:
        runs: the folder of all runs.
        problem: why Slurm did not answer the last time; empty if it did or was not needed.
    """

    def __init__(self, runs: Path, budget: CallBudget | None = None) -> None:
        self.runs = runs
        self._budget = budget or CallBudget()
        self._queue: Queue | None = None
        self._asked = 0.0
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._lifted: set[tuple[str, int]] = set()
        self.problem = ""

    def read(self) -> list[RunStatus]:
        """Return all runs, those that go on first, and among these the newest first."""
        rows = self._judge_all(read_all(self.runs))
        return sorted(rows, key=lambda row: (STATES.index(row.state), -row.since, row.name))

    def read_one(self, path: Path) -> RunStatus | None:
        """Return one run; None if the folder is none."""
        facts = read_facts(str(path), path.parent.name, path.name)
        return self._judge_all([facts])[0] if facts is not None else None

    def read_arrays(self) -> list[WaitingArray]:
        """Return the arrays of which members have not begun, and what will start those."""
        if not (self.runs / ".arrays").is_dir():
            return []
        from jobs.array_view import find_waiting, starters  # a list without arrays need not wait

        found = find_waiting(self.runs)
        if any(array.executor == "slurm" for array in found):
            self._look(())
        queue = self._queue or Queue()
        with suppress(OSError):  # somebody else's runs: they are found by their tags every time
            tags = queue.by_tag.items()
            adopt_found(self.runs, {tag: job.job_id.partition("_")[0] for tag, job in tags})
        return [replace(array, jobs=starters(array, queue)) for array in found]

    def look_soon(self, after_sec: float) -> None:
        """Have the next look at the queue come earlier, as far as the budget allows."""
        self._asked = min(self._asked, time.monotonic() - LOOK_SEC + after_sec)

    def lift_wait(self, row: RunStatus) -> bool:
        """Have a job that waits only because it was requeued start now; True if it was asked."""
        job = self._queue.find(row.job_id) if self._queue else None
        key = (row.job_id, row.attempt)
        # the first attempt may have been asked to begin later; a requeued one was not
        if job is None or not is_held_back(job) or row.attempt < 2 or key in self._lifted:
            return False
        if not self._budget.take():
            return False
        self._lifted.add(key)
        try:
            slurm.start_now(job.job_id)
        except SubmitError as error:  # somebody else's job: it starts when its time has come
            logger.debug("%s: %s", row.path, error)
            return False
        return True

    def _judge_all(self, found: list[RunFacts]) -> list[RunStatus]:
        asked = {facts.path: facts for facts in found if needs_queue(facts)}
        if asked:
            self._look(asked.values())
        queue = self._queue or Queue()
        words = [
            self._judge(facts, queue) if facts.path in asked else judge_here(facts)
            for facts in found
        ]
        gone = [
            facts.job_id
            for facts, word in zip(found, words, strict=True)
            if word.state == "lost" and facts.executor == "slurm" and not queue.find(facts.job_id)
        ]
        ends = find_ends(self.runs, filter(None, gone)) if gone else {}
        rows: list[RunStatus] = []
        for facts, word in zip(found, words, strict=True):
            if end := ends.get(facts.job_id) if word.state == "lost" else None:
                word = judge_gone(facts, end)
            rows.append(_row(facts, word, queue.find(facts.job_id)))
        return rows

    def _look(self, asked: Iterable[RunFacts]) -> None:
        is_due = self._queue is None or time.monotonic() >= self._asked + LOOK_SEC
        if not is_due or not self._budget.take():
            return
        self._asked = time.monotonic()
        self._queue = read_queue({os.getuid(), *(facts.owner for facts in asked)})
        self.problem = self._queue.problem
        # what has changed since it was read cannot be judged by this look
        self._seen = {
            facts.path: facts.version
            for facts in asked
            if not self._is_missing(facts) or _is_unchanged(facts)
        }

    def _is_missing(self, facts: RunFacts) -> bool:
        job = self._queue.find(facts.job_id) if self._queue else None
        return job is None or job.state not in LIVE

    def _judge(self, facts: RunFacts, queue: Queue) -> Judgement:
        if queue.problem and not facts.executor:  # a launch that died before it named one
            return judge_here(facts)
        if queue.problem:
            words = f"Slurm does not answer; last written: {facts.written or 'nothing'}"
            return Judgement("unknown", reason=words)
        if self._seen.get(facts.path) != facts.version:
            return as_written(facts)
        return judge_by_queue(facts, queue)


def _is_unchanged(facts: RunFacts) -> bool:
    now = read_facts(facts.path, facts.kind, facts.name)
    return now is not None and now.version == facts.version


def _row(facts: RunFacts, word: Judgement, job: QueuedJob | None) -> RunStatus:
    state = facts.state
    record = read_last_step(facts.path) if word.state != "done" else {}
    is_pending = job is not None and job.state == "PENDING"
    cause, reason = word.cause, word.reason
    if not cause and not reason and word.state in GOING_ON and facts.attempt > 1:
        cause, reason = read_cause(facts.path, facts.attempt - 1)
    return RunStatus(
        kind=facts.kind,
        name=facts.name,
        path=facts.path,
        state=word.state,
        attempt=facts.attempt,
        executor=facts.executor,
        job_id=facts.job_id,
        step=record.get("step", state.get("step")),
        steps=record.get("steps"),
        left_sec=_left(record, is_running=word.state == "running"),
        clips_per_sec=record.get("clips_per_sec"),
        loss=record.get("loss"),
        saved_step=state.get("step"),
        cause=cause,
        reason=reason,
        pending=job.reason if job and is_pending else "",
        starts=job.start if job and is_pending else None,
        nodes=job.nodes if job else "",
        partition=job.partition if job else "",
        since=_since(facts, word, record),
    )


def _left(record: Mapping[str, Any], *, is_running: bool) -> float | None:
    left = record.get("sec_left")
    if left is None or not is_running:
        return left
    passed = time.time() - float(record.get("time", time.time()))
    return max(0.0, left - max(0.0, passed))


def _since(facts: RunFacts, word: Judgement, record: Mapping[str, Any]) -> float:
    """Return when a state began; of a run that could not write its end, its last sign of life."""
    updated = float(facts.state.get("updated") or 0.0)
    if word.state in (*GOING_ON, facts.written):
        return updated
    stop_json = facts.run.attempt(facts.attempt).stop_json
    asked = stop_json.stat().st_mtime if stop_json.exists() else 0.0
    return max(updated, asked, float(record.get("time") or 0.0))
