"""One node's part in one attempt: start the ranks, watch, stop, and on node 0 conclude."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from jobs import slurm
from jobs.blame import HEARTBEAT_SEC
from jobs.command import RankPlace, torchrun_command
from jobs.conclusion import Concluding, ask_slurm
from jobs.environment import code_first
from jobs.errors import SubmitError
from jobs.node import NodeFacts, is_alive, process_start
from jobs.outcome import Decision
from jobs.preflight import Preflight
from jobs.rendezvous import MAX_ROUNDS, Rendezvous, is_port_clash, publish, read_rendezvous
from jobs.run_folder import RunFolder, create_json, read_json, write_json_atomic
from jobs.signals import SignalPipe
from jobs.spec import JobSpec
from jobs.stacks import flight_recorder
from jobs.stop import Execution, LocalStopFile, Stop, read_stop
from jobs.torchrun import Echo, TorchrunChild, knows_flag
from jobs.verdict import Verdict, read_verdict
from jobs.watchdog import Watchdog

logger = logging.getLogger(__name__)

TICK_SEC = 0.1  # between looks at this node: the child, its output
SHARED_TICK_SEC = 0.5  # between looks at the shared disk: stop.json, a newer claim, exits
KILL_MARGIN_SEC = 5.0  # before a deadline, to conclude ourselves rather than be killed
CRASH_GRACE_SEC = 6.0  # for ranks that still run when one of them is dead
LINGER_SEC = 15.0  # for torchrun once all ranks have left
OVERRIDING = ("cancelled", "requeued")
FILE_PATIENCE_SEC = 60.0  # network disks may show another node's file this late


@dataclass(frozen=True)
class Work:
    """What an agent was given: the run, what to run, from which code, under which token."""

    run: RunFolder
    spec: JobSpec
    snapshot: Path
    home: str
    token: str


class AttemptOnNode:
    """Runs attempt `number` on this node; `run` returns when the node is through with it."""

    def __init__(self, work: Work, node: NodeFacts, number: int, signals: SignalPipe) -> None:
        self._work = work
        self._node = node
        self._signals = signals
        self._folder = work.run.attempt(number)
        self._local_stop = LocalStopFile(f"{work.token[:8]}-a{number}-n{node.index}")
        self._echo = Echo(self._folder.main_log, f"{node.index}.")
        local, limits = self._local_stop.path.parent, work.spec.resources.watchdog
        self._watchdog = Watchdog(local, self._folder, node, limits)
        self._preflight = Preflight(work.run, self._folder, node, work.spec.resources)
        self._child: TorchrunChild | None = None
        self._started = time.time()
        self._stop: Stop | None = None
        self._kill_at: float | None = None
        self._superseded = False
        self._has_lost_rank = False
        self._asked_at = 0.0
        self._next_look = 0.0
        self._next_heartbeat = 0.0
        self._left_since: float | None = None

    def run(self, early: list[signal.Signals]) -> Decision | None:
        """Run the ranks to their end.

        Args:
            early: signals that came before the attempt was known.

        Returns:
            On node 0 what follows; elsewhere, and where a newer attempt holds the run, None.
        """
        self._write_node("running")
        with self._local_stop:
            for signum in early:
                self._on_signal(signum)
            code = self._run_ranks()
            self._preflight.close()
            self._echo.close()
            decision = self._conclude(code) if self._node.index == 0 else self._leave(code)
        self._write_node("ended")
        return decision

    # ---- the ranks

    def _run_ranks(self) -> int | None:
        """Start torchrun and watch it to its end; None if it never started."""
        code = None
        for round_ in range(MAX_ROUNDS):
            rendezvous = self._meet(round_)
            if rendezvous is None:
                return code
            self._child = self._start(rendezvous)
            local = self._local_stop.path.parent
            self._preflight.start(self._work.token, local, self._work.snapshot)
            code = self._watch(rendezvous.round)
            log = self._folder.torchrun_log(self._node.index)
            if code in (0, None) or self._stop or not is_port_clash(log):
                if not self._is_outdated(rendezvous.round):
                    return code
            else:
                logger.warning("port %d was taken, trying another", rendezvous.port)
                log.rename(log.with_suffix(f".round{round_}.log"))
        return code

    def _meet(self, round_: int) -> Rendezvous | None:
        if self._node.index == 0 and not self._is_ending:
            path, run = self._folder.rendezvous_json, self._work.run.path.name
            return publish(path, self._node, run, self._folder.number, round_)
        while not self._is_ending:
            rendezvous = read_rendezvous(self._folder.rendezvous_json, round_)
            if rendezvous is not None:
                return rendezvous
            self._tick()
        return None

    def _start(self, rendezvous: Rendezvous) -> TorchrunChild:
        index = self._node.index
        place = RankPlace(
            run_dir=str(self._work.run.path),
            attempt=self._folder.number,
            stop_file=str(self._local_stop.path),
            home=self._work.home,
            rank_log=str(self._folder.logs / f"{index}.{{local_rank}}.log"),
            main_log=str(self._folder.main_log),
        )
        argv, env = torchrun_command(
            self._work.spec,
            self._node,
            rendezvous,
            place=place,
            python=sys.executable,
            knows_shutdown_timeout=knows_flag("--shutdown-timeout"),
        )
        env |= code_first(str(self._work.snapshot)) | self._preflight.request
        if self._work.spec.resources.gpus_per_node:
            self._folder.stacks.mkdir(parents=True, exist_ok=True)
            local = self._local_stop.path.parent
            env = {**flight_recorder(local, self._folder.stacks), **env}
        log = self._folder.torchrun_log(index)
        rendezvous.release()
        child = TorchrunChild(argv, env, self._work.snapshot, log)
        logger.info("torchrun %d meets at %s:%d", child.pid, rendezvous.host, rendezvous.port)
        return child

    def _watch(self, round_: int) -> int | None:
        """Return torchrun's exit code once it has ended, by itself or by us."""
        child = self._child
        assert child is not None
        asked_to_end = False
        while (code := child.poll()) is None:
            self._tick()
            self._echo.copy()
            now = time.time()
            if self._superseded or self._is_outdated(round_):
                child.kill()
            elif self._kill_at is not None and now >= self._kill_at:
                logger.warning("the ranks have not left in time: killed")
                child.kill()
            elif self._stop and not asked_to_end and not self._has_ranks():
                asked_to_end = True  # still meeting the other nodes: nobody to save anything
                child.terminate()
            elif self._left_since is not None and now >= self._left_since + LINGER_SEC:
                child.kill()
        child.kill()  # what torchrun may have left behind
        return code

    def _has_ranks(self) -> bool:
        return self._folder.rank_log(self._node.index, 0).exists()

    def _is_outdated(self, round_: int) -> bool:
        """Return whether node 0 has moved the meeting elsewhere."""
        data = read_json(self._folder.rendezvous_json) if self._node.index else None
        return data is not None and data.get("round", 0) > round_

    # ---- stopping

    @property
    def _is_ending(self) -> bool:
        return self._stop is not None or self._superseded

    def _tick(self) -> None:
        for signum in self._signals.wait(TICK_SEC):
            self._on_signal(signum)
        if time.time() >= self._next_heartbeat:
            self._write_node("running")
        if time.time() < self._next_look:
            return
        self._next_look = time.time() + SHARED_TICK_SEC
        asked = read_stop(self._folder.stop_json)
        if asked is not None and asked != self._stop:
            self._take(asked)
        self._superseded = self._is_superseded()
        if self._left_since is None and self._have_all_left():
            self._left_since = time.time()
        self._look_after_ranks()
        self._look_for_hang()
        unfit = self._preflight.look()
        if unfit is not None and self._stop is None:
            self._announce(unfit)
        if self._node.executor != "slurm" and self._stop is None:
            self._look_at_clock()

    def _is_superseded(self) -> bool:
        return self._work.run.attempt(self._folder.number + 1).claim_json.exists()

    def _have_all_left(self) -> bool:
        try:
            names = os.listdir(self._folder.exits)
        except OSError:
            return False
        left = sum(name[:-5].isdecimal() for name in names if name.endswith(".json"))
        return left >= self._work.spec.resources.world_size

    def _look_after_ranks(self) -> None:
        """Notice a dead rank before torchrun, which first gives the others half a minute."""
        detail = self._find_dead_rank()
        if detail is None:
            return
        deadline = time.time() + CRASH_GRACE_SEC
        if self._stop is None:
            self._announce(Stop("crash", deadline, "agent", detail))
        elif self._stop.reason != "crash" and not self._has_lost_rank:
            logger.warning("%s: nothing more can be saved", detail)
            self._kill_at = min(self._kill_at or deadline, deadline)
        self._has_lost_rank = True

    def _find_dead_rank(self) -> str | None:
        for rank, pid in self._local_stop.rank_pids().items():
            lives = is_alive(pid, None)  # before its file: it may leave in between
            words = read_json(self._folder.exit_json(rank))
            if words is not None and words.get("state") == "failed":
                return f"rank {rank} on {self._node.name} failed: {words.get('message')}"
            if words is None and not lives:
                return f"rank {rank} on {self._node.name} died without a word"
        return None

    def _look_for_hang(self) -> None:
        detail = self._watchdog.look()
        if detail is not None and self._stop is None:
            self._announce(Stop("hang", None, "watchdog", detail))
        elif detail is not None:  # told to stop, the ranks hang: only their stacks can be saved
            self._watchdog.collect(self._local_stop.rank_pids(), detail)
        if self._watchdog.may_kill():
            self._kill_at = min(self._kill_at or time.time(), time.time())

    def _look_at_clock(self) -> None:
        """Without a scheduler the agent itself holds the run to its time limit."""
        ask = self._work.spec.resources
        ends = self._started + ask.time_limit_sec
        if time.time() >= ends - ask.lead_sec:
            self._announce(Stop("timeout", ends, "clock"))

    def _on_signal(self, signum: signal.Signals) -> None:
        logger.info("caught %s", signum.name)
        if signum == signal.SIGCONT:
            return
        if self._node.executor == "slurm":
            self._on_slurm_signal(signum)
        elif self._stop and self._stop.reason == "user" and signum == signal.SIGINT:
            self._kill_at = time.time()  # a second Ctrl-C
        else:
            reasons = {signal.SIGUSR2: "preempt", signal.SIGTERM: "cancelled"}
            self._announce(Stop(reasons.get(signum, "user"), None, "agent", signum.name))

    def _on_slurm_signal(self, signum: signal.Signals) -> None:
        if self._stop is None:
            # the ranks need not wait for the reason
            self._local_stop.write(Stop("signal", None, "agent", signum.name))
        if self._node.index != 0 or time.time() < self._asked_at + 1:
            return
        self._asked_at = time.time()
        stop = self._ask_slurm(signum)
        # what ended the job for Slurm, such as a scancel in the grace period, overrides a warning
        if self._stop is None or stop.reason in OVERRIDING:
            self._announce(stop)

    def _ask_slurm(self, signum: signal.Signals) -> Stop:
        ask = self._work.spec.resources
        ends = self._started + ask.time_limit_sec
        stop = ask_slurm(self._node, signum, Execution(self._node.restart, ends, ask.lead_sec))
        if stop.deadline is None and signum == signal.SIGTERM:
            stop = replace(stop, deadline=time.time() + slurm.kill_wait_sec())
        return stop

    def _announce(self, stop: Stop) -> None:
        """Make a stop known to the other nodes; a request that was there before stands."""
        path = self._folder.stop_json
        if stop.reason in OVERRIDING:
            write_json_atomic(path, stop.to_json())
        elif not create_json(path, stop.to_json()):
            stop = read_stop(path) or stop
        self._take(stop)

    def _take(self, stop: Stop) -> None:
        self._stop = stop
        left = "" if stop.deadline is None else f", {stop.deadline - time.time():.0f} s left"
        logger.info("stopping: %s (%s %s)%s", stop.reason, stop.source, stop.detail, left)
        self._local_stop.write(stop)
        if stop.reason == "hang":
            self._watchdog.collect(self._local_stop.rank_pids(), stop.detail)
        if stop.deadline is not None:
            left_sec = stop.deadline - time.time()
            self._kill_at = stop.deadline - min(KILL_MARGIN_SEC, 0.3 * left_sec)

    # ---- the end

    def _conclude(self, code: int | None) -> Decision | None:
        """Node 0: read how it ended, write it down, queue what follows."""
        verdict = self._wait_for_verdict(code)
        if self._is_superseded():
            logger.info("attempt %d is superseded: leaving", self._folder.number)
            return None
        if verdict.state == "stopped":
            self._hear_unfit_ranks()
        stop = self._watchdog.explain(self._stop or read_stop(self._folder.stop_json))
        if stop is None and verdict.state != "done" and self._node.executor == "slurm":
            stop = self._ask_slurm(signal.SIGTERM)  # the ranks may have heard what we have not
        attempt = Concluding(self._work.run, self._folder.number, self._node, self._work.token)
        try:
            return attempt.conclude(stop, verdict)
        except SubmitError as error:  # the batch shell may have what is missing here
            logger.warning("the next attempt could not be queued from here: %s", error)
            return None

    def _hear_unfit_ranks(self) -> None:
        """Ranks that found a node unfit have left: what they wrote says which one, and is near."""
        until = time.time() + FILE_PATIENCE_SEC
        while self._stop is None and self._preflight.awaits_ranks and time.time() < until:
            self._next_look = 0.0
            self._tick()

    def _wait_for_verdict(self, code: int | None) -> Verdict:
        """Read the ranks' files, waiting for those of other nodes."""
        patience = FILE_PATIENCE_SEC if code == 0 else KILL_MARGIN_SEC
        until = time.time() + patience
        if self._stop and code is not None:
            until = self._kill_at or time.time() + FILE_PATIENCE_SEC
        while True:
            world_size = self._work.spec.resources.world_size
            verdict = read_verdict(self._work.run, self._folder, world_size)
            crashed = self._stop is not None and self._stop.reason == "crash"
            is_late = time.time() >= until or self._superseded or crashed
            if verdict.state != "open" or is_late or code is None:
                return verdict
            self._tick()

    def _leave(self, code: int | None) -> None:
        """Other nodes: tell node 0 of a crash, by file and, if that is not heard, by exit code."""
        if code in (0, None) or self._is_ending:
            return
        world_size = self._work.spec.resources.world_size
        verdict = read_verdict(self._work.run, self._folder, world_size)
        if verdict.state in ("done", "stopped"):
            return
        deadline = time.time() + CRASH_GRACE_SEC
        where = f"torchrun on node {self._node.index} ({self._node.name}) ended with {code}"
        self._announce(Stop("crash", deadline, "agent", f"{where}; {verdict.message}"))
        while time.time() < deadline + KILL_MARGIN_SEC:
            if self._folder.outcome_json.exists() or self._superseded:
                return
            self._tick()
        raise SystemExit(1)  # srun ends the step everywhere, the batch shell then continues the run

    def _write_node(self, state: str) -> None:
        pid = os.getpid()
        facts = {
            "state": state,
            "name": self._node.name,
            "host": socket.gethostname(),
            "pid": pid,
            "process_start": process_start(pid),
            "job_id": self._node.job_id,
            "started": self._started,
            "time": time.time(),
        }
        self._next_heartbeat = time.time() + HEARTBEAT_SEC
        write_json_atomic(self._folder.node_json(self._node.index), facts)
