"""The watchdog of a node: a rank whose heartbeat stands still for too long hangs.

Ranks write what they are doing into the node's memory (`EGOVL_HEARTBEAT_FILE`): a phase and a count
in one line. Any change is a sign of life. A rank that never wrote one is not watched, so any
program can be run. Time is counted by this process's own clock and only while it runs itself: a job
that Slurm suspends does not hang.

On a hang all nodes write down where their ranks stand; only when all have, the ranks are killed.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.health import WatchdogLimits
from jobs.node import NodeFacts
from jobs.rank import HEARTBEAT_NAME
from jobs.run_folder import AttemptFolder, read_json, write_json_atomic
from jobs.stacks import collect_stacks
from jobs.stop import Stop

logger = logging.getLogger(__name__)

STEP_FACTOR = 8  # a step may take so many times the median
WARM_UP_STEPS = 3  # the first ones compile and fill caches: they have the time of the start
_REMEMBERED_STEPS = 101
_LONGEST_LOOK_SEC = 5.0  # more than this between two looks, and we were suspended ourselves
_SHOWN_PLACES = 3
_SHOWN_RANKS = 4
_MARKER_SEC = 10.0  # for the other nodes' word that their stacks are written


@dataclass(frozen=True)
class Beat:
    """What a rank said last.

    Attributes:
        phase: start, step, save or eval.
        count: steps done, or batches of an evaluation.
        stamp: when the file was written, in ns; only compared, never reckoned with.
    """

    phase: str
    count: int
    stamp: int


def read_beat(path: Path) -> Beat | None:
    """Return a rank's last word; None if it never wrote one."""
    try:
        with path.open("rb") as file:
            words = file.read(64).split()
            stamp = os.fstat(file.fileno()).st_mtime_ns
        return Beat(words[0].decode("ascii"), int(words[1]), stamp)
    except (OSError, ValueError, IndexError):
        return None


class RankWatch:
    """How long one rank has been silent, and how long its steps take."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat
        self.silent_sec = 0.0
        self._first_step: int | None = None
        self._step_sec: deque[float] = deque(maxlen=_REMEMBERED_STEPS)

    def see(self, beat: Beat, passed_sec: float) -> None:
        """Take a look's result.

        Args:
            beat: what the file says now.
            passed_sec: since the look before.
        """
        self.silent_sec += passed_sec
        if beat == self.beat:
            return
        if beat.phase == "step":
            if self._first_step is None:
                self._first_step = beat.count
            done = beat.count - self.beat.count
            if self.beat.phase == "step" and done > 0:
                self._step_sec.append(self.silent_sec / done)
        self.beat, self.silent_sec = beat, 0.0

    def limit_sec(self, limits: WatchdogLimits) -> float:
        """Return how long the rank may be silent in what it does now."""
        slow = STEP_FACTOR * statistics.median(self._step_sec) if self._step_sec else 0.0
        step = max(limits.step_min_sec, slow)
        by_phase = {"start": limits.start_sec, "save": limits.save_sec, "eval": limits.eval_sec}
        if self.beat.phase != "step":
            return by_phase.get(self.beat.phase, max(step, *by_phase.values()))
        first = self.beat.count if self._first_step is None else self._first_step
        done = self.beat.count - first
        return step if done >= WARM_UP_STEPS else max(step, limits.start_sec)


class Watchdog:
    """Watches the ranks of one node in one attempt."""

    def __init__(
        self,
        local: Path,
        folder: AttemptFolder,
        node: NodeFacts,
        limits: WatchdogLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._folder = folder
        self._node = node
        self._limits = limits
        self._clock = clock
        self._looked = clock()
        self._ranks: dict[int, RankWatch] = {}
        self._collected_at: float | None = None

    def look(self) -> str | None:
        """Return which ranks of this node hang, in words; None while all is well."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK_SEC), now
        if not self._limits.is_on or self._collected_at is not None:
            return None
        for path in self._local.glob(HEARTBEAT_NAME.format(rank="*")):
            beat, rank = read_beat(path), int(path.name.split(".")[1])
            if beat is None:
                continue
            if rank not in self._ranks:
                self._ranks[rank] = RankWatch(beat)
            self._ranks[rank].see(beat, passed)
        return self._describe() or None

    def _describe(self) -> str:
        hung = [rank for rank, watch in self._ranks.items() if self._is_hung(rank, watch)]
        # who is behind the others made them wait
        hung.sort(key=lambda rank: (self._ranks[rank].beat.count, rank))
        words = [self._describe_rank(rank) for rank in hung[:_SHOWN_RANKS]]
        if more := len(hung) - len(words):
            words.append(f"and {more} more")
        return f"on {self._node.name} {'; '.join(words)}" if words else ""

    def _describe_rank(self, rank: int) -> str:
        watch = self._ranks[rank]
        limit_sec, phase = watch.limit_sec(self._limits), watch.beat.phase
        what = {"step": "after step", "save": "at step", "eval": "at batch"}
        where = f" {what[phase]} {watch.beat.count}" if phase in what else ""
        silent = f"silent for {watch.silent_sec:.0f} s in phase {phase}{where}"
        return f"rank {rank} {silent} (limit {limit_sec:.0f} s)"

    def _is_hung(self, rank: int, watch: RankWatch) -> bool:
        is_late = watch.silent_sec > watch.limit_sec(self._limits)
        return is_late and not self._folder.exit_json(rank).exists()

    def collect(self, pids: Mapping[int, int], why: str) -> None:
        """Write down where the ranks of this node stand; only the first call does.

        Args:
            pids: rank -> process id.
            why: what hangs.
        """
        if self._collected_at is not None:
            return
        started = time.time()
        heading = f"{self._node.name}, {time.strftime('%F %T')}: {why}"
        native_sec = self._limits.native_sec
        try:
            frames = collect_stacks(self._local, self._folder.stacks, pids, heading, native_sec)
        except OSError as error:
            logger.warning("no stacks on %s: %s", self._folder.stacks, error)
            frames = {}
        for rank, frame in sorted(frames.items()):
            logger.warning("rank %d stands at %s", rank, frame or "an unknown place")
        self._collected_at = time.time()
        facts = {"name": self._node.name, "ranks": {str(rank): frames[rank] for rank in frames}}
        times = {"started": started, "ended": self._collected_at}
        write_json_atomic(self._marker(self._node.index), {**facts, **times})

    def explain(self, stop: Stop | None) -> Stop | None:
        """Return a hang's stop with where all ranks stood, those that stand alone first."""
        if stop is None or stop.reason != "hang":
            return stop
        places: dict[str, list[int]] = {}
        for index in range(self._node.count):
            for rank, frame in (read_json(self._marker(index)) or {}).get("ranks", {}).items():
                places.setdefault(frame or "an unknown place", []).append(int(rank))
        # one rank in a place of its own is why the many wait for each other
        lonely = sorted(places.items(), key=lambda item: (len(item[1]), item[1]))
        words = [f"rank {_listed(ranks)} at {place}" for place, ranks in lonely[:_SHOWN_PLACES]]
        if not words:
            return stop
        seen = f"{stop.detail}; {'; '.join(words)}; see {self._folder.stacks}"
        return replace(stop, detail=seen)

    def may_kill(self) -> bool:
        """Return whether all nodes have written their stacks, or had time enough for it."""
        if self._collected_at is None:
            return False
        if time.time() > self._collected_at + self._limits.native_sec + _MARKER_SEC:
            return True
        return all(self._marker(index).exists() for index in range(self._node.count))

    def _marker(self, node: int) -> Path:
        return self._folder.stacks / f"node.{node}.json"


def _listed(ranks: list[int]) -> str:
    first = ", ".join(str(rank) for rank in sorted(ranks)[:8])
    return first if len(ranks) <= 8 else f"{first} and {len(ranks) - 8} more"
