"""Processes that race for one continuation and are killed at random moments.

Real processes, real claim files, the real code of everybody who may continue a run: the agent, the
batch shell, submitit's hook, Slurm's own restart of the job, a user's relaunch. Only the queue is
paper: a file to which submitting appends a line.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from jobs import slurm, successor
from jobs.agent import NodeAgent
from jobs.continuation import continue_run
from jobs.errors import JobsError
from jobs.execution import enter_attempt
from jobs.ledger import comment_tag, record_job
from jobs.node import NodeFacts
from jobs.outcome import Decision, write_outcome
from jobs.resume import resume
from jobs.run_folder import RunFolder, create_json, read_json, write_json_atomic
from jobs.signals import SignalPipe
from jobs.spec import JobSpec

JOB, TOKEN = "7", "first"
LONGEST_LIFE_SEC = 0.02
MOST_CALLS = 10_000
BROKEN = 3


class PaperSlurm:
    """A queue in a file: one line per submission or requeue; job 7 runs while it is said to."""

    def __init__(self, path: Path, draw: random.Random, is_blind: bool) -> None:
        self.path = path
        self.draw = draw
        self.is_blind = is_blind
        self.over = path.with_name("over")

    def lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _append(self, **line: Any) -> None:
        self._dawdle()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, (json.dumps(line) + "\n").encode())
        os.close(handle)
        self._dawdle()

    def _dawdle(self) -> None:
        """A controller answers when it has time: a kill may come on either side of the line."""
        time.sleep(self.draw.random() * 0.004)

    def submit(self, run: RunFolder, parameters: dict[str, Any], agent: NodeAgent) -> str:
        job_id = str(1000 + self.draw.randrange(10**9))
        self._append(job=job_id, token=agent.token, restart=0)
        if self.draw.random() < 0.1:
            raise slurm.SubmitError("sbatch: error: Socket timed out")  # and yet it is in the queue
        record_job(run, agent.token, job_id, "slurm")
        return job_id

    def requeue(self, job_id: str) -> None:
        if self.show(job_id)["Restarts"] == "1":
            raise slurm.SubmitError("Job has already finished")
        self._append(job=job_id, token=TOKEN, restart=1)

    def find(self, comment: str) -> str | None:
        found = [line["job"] for line in self.lines() if comment_tag(line["token"]) == comment]
        return found[0] if found and not self.is_blind else None

    def show(self, job_id: str) -> dict[str, str]:
        mine = [line for line in self.lines() if line["job"] == job_id]
        restarts = str(max((line["restart"] for line in mine), default=0))
        if job_id == JOB and restarts == "0":
            state = "COMPLETED" if self.over.exists() else "RUNNING"
        else:
            state = "PENDING" if mine else "COMPLETED"
        return {"JobState": state, "Restarts": restarts, "Reason": "None"}

    def patches(self) -> list[Any]:
        return [
            mock.patch.object(slurm, "show_job", self.show),
            mock.patch.object(slurm, "requeue", self.requeue),
            mock.patch.object(slurm, "find_by_comment", self.find),
            mock.patch.object(slurm, "slurm_answers", lambda: True),
            mock.patch.object(slurm, "start_now", lambda job_id: None),
            mock.patch.object(slurm, "failed_nodes", lambda names: []),
            mock.patch.object(successor, "submit_batch", self.submit),
        ]


@dataclass
class Trial:
    """One run whose first attempt has ended, and those who would go on with it."""

    run: RunFolder
    queue: PaperSlurm
    draw: random.Random

    @staticmethod
    def prepare(folder: Path, seed: int, is_blind: bool) -> Trial:
        run, draw = RunFolder(folder / "kind" / "run"), random.Random(seed)
        code = run.path / "code"
        code.mkdir(parents=True)
        create_json(run.run_json, {"snapshot": str(code), "snapshot_hash": "0"})
        write_json_atomic(run.spec_json(TOKEN), JobSpec("kind", "run").to_json())
        write_json_atomic(run.sbatch_json(TOKEN), {"job_name": "run"})
        run.claim_attempt(1, TOKEN, 0, by="launch")
        record_job(run, TOKEN, JOB, "slurm")
        write_json_atomic(run.attempt(1).node_json(0), {"name": "n1"})
        node = NodeFacts(executor="slurm", job_id=JOB)
        write_outcome(run, 1, node, Decision("queued", "preempt", goes_on=True))
        return Trial(run, PaperSlurm(folder / "queue.jsonl", draw, is_blind), draw)

    # ---- who may go on

    def agent(self) -> None:
        node = NodeFacts(executor="slurm", job_id=JOB)
        via = self.draw.choice(("auto", "auto", "successor", "requeue"))
        continue_run(self.run, 1, node, TOKEN, via)

    def hook(self) -> None:
        """submitit's signal handler, which requeues whatever the hook says."""
        os.environ |= {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": JOB}
        NodeAgent(str(self.run.path), "/code", TOKEN).checkpoint()
        self.queue.requeue(JOB)

    def relaunch(self) -> None:
        """A launch with a stale view of the queue: it takes what is free."""
        token = uuid.uuid4().hex
        write_json_atomic(self.run.spec_json(token), JobSpec("kind", "run").to_json())
        write_json_atomic(self.run.sbatch_json(token), {"job_name": "run"})
        number = self.run.latest_attempt() + 1
        if self.run.claim_attempt(number, token, 0, by="launch"):
            self.queue.submit(self.run, {}, NodeAgent(str(self.run.path), "/code", token))

    def restart(self) -> None:
        """Slurm itself: it puts the job back."""
        self.queue.requeue(JOB)

    # ---- the trial

    def race(self) -> None:
        """Let them run at once and kill most of them; the batch shell comes when the agent went."""
        roles: list[Callable[[], None]] = [self.agent]
        rivals = (self.hook, self.relaunch, self.relaunch, self.restart)
        roles += self.draw.sample(rivals, self.draw.randrange(3))
        self.draw.shuffle(roles)
        first = [self._fork(role) for role in roles]
        agent = first[roles.index(self.agent)]
        self._kill_or_wait(agent)
        shell = self._fork(self.agent)
        for child in [shell, *first]:
            if child != agent:
                self._kill_or_wait(child)
        self.queue.over.touch()

    def repair(self) -> None:
        """A later caller: sees what is queued, and goes on where nothing is."""
        for patch in self.queue.patches():
            patch.start()
        try:
            for _ in range(20):
                try:
                    resume(self.run)
                    return
                except slurm.SubmitError:  # the paper controller timed out once more
                    continue
            raise AssertionError(f"{self.run.path} cannot be resumed")
        finally:
            mock.patch.stopall()

    def executions(self) -> list[int]:
        """Start all that is queued, each entry twice; the attempts that were let in."""
        entered: list[tuple[int, str, int]] = []
        started = 0
        for patch in self.queue.patches():
            patch.start()
        try:
            while entries := self.queue.lines()[started:]:  # some queue what was never submitted
                started += len(entries)
                doubled = entries * 2
                self.draw.shuffle(doubled)
                entered += [found for entry in doubled if (found := self._enter(entry))]
        finally:
            mock.patch.stopall()
        return sorted(number for number, _, _ in set(entered))

    def _enter(self, entry: dict[str, Any]) -> tuple[int, str, int] | None:
        node = NodeFacts(executor="slurm", job_id=entry["job"], restart=entry["restart"])
        with SignalPipe() as signals:
            try:
                number = enter_attempt(self.run, node, entry["token"], signals, [])
            except slurm.SubmitError:  # once more, as the batch shell would
                number = enter_attempt(self.run, node, entry["token"], signals, [])
        return None if number is None else (number, entry["job"], entry["restart"])

    def _fork(self, role: Callable[[], None]) -> int:
        seed = self.draw.random()
        pid = os.fork()
        if pid:
            return pid
        self.draw.seed(seed)
        status = BROKEN
        try:
            for patch in self.queue.patches():
                patch.start()
            time.sleep(self.draw.random() * 0.003)
            self._doom()
            role()
            status = 0
        except JobsError:
            status = 1
        finally:
            if status == BROKEN:
                traceback.print_exc()
            os._exit(status)

    def _doom(self) -> None:
        """Have this process kill itself after so many calls: however busy the machine is."""
        left = self.draw.randrange(MOST_CALLS) if self.draw.random() < 0.5 else 10**9

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)

    def _kill_or_wait(self, pid: int) -> None:
        if self.draw.random() < 0.3:
            time.sleep(self.draw.random() * LONGEST_LIFE_SEC)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) != BROKEN, "see its traceback"


def run_trial(folder: Path, seed: int, is_blind: bool = False) -> str | None:
    """Run one trial in an empty folder; what went wrong, None where nothing did.

    With `is_blind` no job is found by its comment, so that lost answers of sbatch become two jobs.
    """
    trial = Trial.prepare(folder, seed, is_blind)
    trial.race()
    trial.repair()
    entered = trial.executions()
    if len(entered) == 1:
        return None
    claims = [read_json(trial.run.attempt(n).claim_json) or {} for n in trial.run.attempt_numbers()]
    what = "nothing goes on" if not entered else f"attempts {entered} run at once"
    return f"seed {seed}: {what}; claims {claims}; queue {trial.queue.lines()}"
