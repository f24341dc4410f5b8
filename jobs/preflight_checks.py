"""What a node is checked for before it trains. Each check returns (state, value, message).

A state is passed, failed, warned or skipped; a message names what is wrong and what to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.run_folder import RunFolder, read_json, write_json_atomic

Outcome = tuple[str, str, str]

BEACON = "beacon.{node}.json"
LOOK_SEC = 0.25
MEETING_SEC = 15.0  # for the other nodes to begin their preflight
_ROOM_FOR_SAVES = 1.2  # of the last checkpoint: the next one stands beside it before it goes
_LEAST_FILES = 1000


def check_cpus(asked: int) -> Outcome:
    """Compare the CPUs that this process may use with those the job asked for."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    value = f"{allowed} of {asked} asked for, {there} in the machine"
    if allowed >= asked:
        return "passed", value, ""
    if allowed >= there:
        return "warned", value, f"{asked} CPUs asked for on a node that has {there}"
    return (
        "failed",
        value,
        f"the job may use {allowed} CPUs of the {asked} it asked for: srun lost --cpus-per-task or "
        "the site binds tasks to cores; look at `srun_arguments` in the cluster profile "
        "(--cpu-bind=none) and at TaskPlugin in slurm.conf",
    )


def check_free_space(run: RunFolder, free_gb: float) -> Outcome:
    """Compare the room on the run's disk with the last checkpoint's size, or a stated one."""
    step = run.last_commit_step()
    last = folder_bytes(run.checkpoints / f"step-{step}") if step is not None else 0
    need = max(free_gb * 2**30, _ROOM_FOR_SAVES * last)
    disk = os.statvfs(run.path)
    free = disk.f_bavail * disk.f_frsize
    value = f"{free / 2**30:.1f} GB free, {need / 2**30:.1f} GB needed"
    if free < need:
        what = f"the next checkpoint (the last has {last / 2**30:.1f} GB)" if last else "the run"
        return (
            "failed",
            value,
            f"{run.path} has {free / 2**30:.1f} GB left, {what} needs {need / 2**30:.1f} GB: free "
            "some, or lower trainer.keep_checkpoints",
        )
    if disk.f_files and disk.f_favail < _LEAST_FILES:
        return "failed", value, f"{run.path} has room for {disk.f_favail} more files: free some"
    if not need:
        return "skipped", value, "no checkpoint yet and no preflight.free_gb: any room will do"
    return "passed", value, ""


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # pruned meanwhile
    return total


@dataclass(frozen=True)
class Sighting:
    """How one node saw another's beacon.

    Attributes:
        first: when it was first seen, by the clock of who saw it.
        delay_sec: smallest difference between seeing and writing it, by the two clocks; it holds
            the clocks' difference, and below zero nothing else.
    """

    first: float
    delay_sec: float


class Meeting:
    """Nodes that see each other through files: node 0 looks at all, the others at node 0.

    Each writes a beacon with its time, over and over while it waits: that shows the delay of the
    disk and the difference of the clocks, and makes a network disk drop what it has cached of the
    folder.
    """

    def __init__(
        self, folder: Path, node: int, count: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._node = node
        self._others = range(1, count) if node == 0 else range(1)
        self._clock = clock
        self.began = clock()
        self.ended = self.began
        self.disk_ahead_sec = 0.0
        self.seen: dict[int, Sighting] = {}

    def publish(self) -> None:
        """Write this node's beacon by rename and read it back.

        Raises:
            OSError: if the disk refuses.
        """
        path = self._folder / BEACON.format(node=self._node)
        now = self._clock()
        write_json_atomic(path, {"time": now, "began": self.began})
        # a server's clock where the disk has one, else this machine's again
        self.disk_ahead_sec = path.stat().st_mtime - now
        if (read_json(path) or {}).get("time") != now:
            raise OSError(f"{path} does not read back as written")

    def look(self) -> bool:
        """Look for the others' beacons; return whether all have been seen."""
        for other in self._others:
            beacon = read_json(self._folder / BEACON.format(node=other))
            if beacon is None:
                continue
            now = self._clock()
            delay, before = now - float(beacon["time"]), self.seen.get(other)
            first = before.first if before else now
            smallest = min(delay, before.delay_sec) if before else delay
            self.seen[other] = Sighting(first, smallest)
        self.ended = self._clock()
        return len(self.seen) == len(self._others)

    def facts(self) -> dict[str, Any]:
        """Return what the other nodes' sightings are compared with."""
        return {
            "began": self.began,
            "ended": self.ended,
            "disk_ahead_sec": round(self.disk_ahead_sec, 3),
            "seen": {str(node): asdict(sighting) for node, sighting in self.seen.items()},
        }


def check_shared_disk(meeting: Meeting, until: float) -> Outcome:
    """Write, rename and read back on the run's disk, and meet the other nodes there.

    Args:
        meeting: this node's.
        until: when to stop waiting for the others, on the monotonic clock.
    """
    try:
        meeting.publish()
        while not meeting.look() and time.monotonic() < until:
            time.sleep(LOOK_SEC)
            meeting.publish()
    except OSError as error:
        return (
            "failed",
            "",
            f"cannot write to the run's folder: {error}; is the disk mounted on this node, "
            "writable, and is there quota left?",
        )
    delays = [sighting.delay_sec for sighting in meeting.seen.values()]
    value = f"saw {len(delays)} other nodes" + (f", in {max(delays):.2f} s" if delays else "")
    return "passed", value, ""


def compare_nodes(
    reports: Mapping[int, Mapping[str, Any]], clock_skew_sec: float, visible_sec: float
) -> dict[int, list[str]]:
    """Find nodes whose files are not seen, or whose clock is off, from all nodes' reports.

    Args:
        reports: node -> its report, with the facts of its meeting.
        clock_skew_sec: largest difference of two clocks.
        visible_sec: longest time until a file is seen.

    Returns:
        Node -> what is wrong with it.
    """
    faults: dict[int, list[str]] = {}
    meetings = {node: report["meeting"] for node, report in reports.items() if "meeting" in report}
    if 0 not in meetings:
        return faults
    skews: dict[int, tuple[float, float]] = {0: (0.0, 0.0)}
    for node in sorted(meetings):
        if node == 0:
            continue
        ours, theirs = meetings[0], meetings[node]
        here, there = ours["seen"].get(str(node)), theirs["seen"].get("0")
        if here and there:
            # the disk's delay is taken to be the same both ways, as in NTP
            skew = (there["delay_sec"] - here["delay_sec"]) / 2
            skews[node] = (skew, max(0.0, (there["delay_sec"] + here["delay_sec"]) / 2))
        for seen, looker, writer in ((here, ours, theirs), (there, theirs, ours)):
            waited = looker["ended"] - writer["began"]
            if seen is None and visible_sec and waited > visible_sec:
                who = "by node 0" if looker is ours else "of node 0"
                faults.setdefault(node, []).append(
                    f"shared disk: a file {who} was not seen in {waited:.0f} s: look at the mount "
                    "of the run's disk there (stale handle, other file system, attribute caching)"
                )
                break
    for node, words in _find_skewed(skews, meetings, clock_skew_sec).items():
        faults.setdefault(node, []).append(words)
    return faults


def _find_skewed(
    skews: Mapping[int, tuple[float, float]], meetings: Mapping[int, Any], limit_sec: float
) -> dict[int, str]:
    """Return the nodes whose clock differs from most others' for certain."""
    faults: dict[int, str] = {}
    ordered = sorted(skew for skew, _ in skews.values())
    middle = ordered[len(ordered) // 2] if len(ordered) > 2 else 0.0
    for node, (skew, unsure) in skews.items():
        off = skew - middle
        if abs(off) - unsure <= limit_sec:
            continue
        blamed = node
        if len(skews) == 2 and abs(meetings[0]["disk_ahead_sec"]) > limit_sec:
            blamed = 0  # two clocks differ, and the disk's own clock says which is right
        way = "ahead of" if off > 0 else "behind"
        faults[blamed] = (
            f"clock: {abs(off):.1f} s {way} the other nodes (limit {limit_sec:g} s): deadlines "
            "would be missed; ask the admins to look at chrony or ntpd"
        )
    return faults
