"""Warned stops, many in one run, under every setting of a site: nothing lost, every cause right."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.run_folder import read_json
from jobs.slurm import parse_time
from jobs.standing import hasten
from jobs.steer import find_live, send_stop_signal
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import PROFILES, Settings
from tests.slurm.errors import TestbedError
from tests.slurm.testbed import bring_up
from tests.slurm.toy_run import WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

# What stops the run, and the cause that has to be found. The time limit comes once a profile:
# Slurm looks at limits every half minute only.
KINDS = {"urgent": "preempt", "drill": "preempt", "requeue": "requeued", "limit": "timeout"}
CYCLE = ("urgent", "drill", "requeue", "drill", "urgent", "limit", "drill")
HEADER = (
    f"{'profile':37} {'stops':>5} {'causes':>7} {'deadlines':>9} {'lost':>5} "
    f"{'stopped':>8} {'gap':>6} {'resumed':>8}  misses"
)


@dataclass
class Stops:
    """What the stops of one profile came to; times are those of the drills, in seconds."""

    profile: str
    count: int = 0
    right_causes: int = 0
    deadlines: int = 0
    right_deadlines: int = 0
    lost: int = 0
    to_stopped: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    to_resumed: list[float] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every stop was as it has to be."""
        right = self.right_causes == self.count and self.right_deadlines == self.deadlines
        return right and not self.lost and not self.misses and self.count > 0

    def row(self) -> str:
        """This profile's line of the table."""
        times = [
            f"{statistics.median(values):.2f}" if values else "-"
            for values in (self.to_stopped, self.gaps, self.to_resumed)
        ]
        causes = f"{self.right_causes}/{self.count}"
        deadlines = f"{self.right_deadlines}/{self.deadlines}"
        return (
            f"{self.profile:37} {self.count:5} {causes:>7} {deadlines:>9} {self.lost:5} "
            f"{times[0]:>8} {times[1]:>6} {times[2]:>8}  {'; '.join(self.misses)}"
        )


def soak_stops(folder: Path, trials: int, profiles: list[str], seed: int) -> list[Stops]:
    """Stop one run per profile until there are `trials` stops in all."""
    results: list[Stops] = []
    for number, name in enumerate(profiles):
        share = trials // len(profiles) + (number < trials % len(profiles))
        if share:
            results.append(_soak_profile(folder / str(number), name, share, seed + number))
            print(results[-1].row(), flush=True)
    return results


def summary(results: list[Stops]) -> str:
    """Totals and medians over all profiles."""
    count = sum(each.count for each in results)
    whole = Stops(
        "all",
        count,
        sum(each.right_causes for each in results),
        sum(each.deadlines for each in results),
        sum(each.right_deadlines for each in results),
        sum(each.lost for each in results),
        [value for each in results for value in each.to_stopped],
        [value for each in results for value in each.gaps],
        [value for each in results for value in each.to_resumed],
    )
    return whole.row()


def _soak_profile(folder: Path, name: str, count: int, seed: int) -> Stops:
    result, draw = Stops(name), random.Random(seed)
    folder.mkdir(parents=True)
    local, _ = bring_up(Settings(folder / "s", **PROFILES[name]))
    os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
    slurm = SlurmClient(local)
    try:
        run = launch_toy(slurm, folder, "light=1", "save_sec=1", num_steps=1_000_000)
        for attempt, kind in enumerate(itertools.islice(itertools.cycle(CYCLE), count), 1):
            seen = max((step["step"] for step in run.steps(0)), default=0)
            run.wait_step(seen + draw.randrange(3, 40), attempt)
            stop_once(run, attempt, kind, result)
        run.wait_step(1, count + 1)
        slurm.cancel(run.job_id)
        run.wait_end("cancelled", 60.0)
        result.lost = _lost_steps(run)
    except (AssertionError, TestbedError) as error:
        result.misses.append(str(error).splitlines()[0][:200])
        print(error, flush=True)
    finally:
        local.down()
        shutil.rmtree(folder, ignore_errors=True)
    return result


def stop_once(run: ToyRun, attempt: int, kind: str, result: Stops) -> None:
    """Stop an attempt in one of the KINDS and note what came of it; the next one is at work."""
    folder, job = run.folder.attempt(attempt), run.job_id
    told = time.time()
    intruder = None
    if kind == "urgent":
        intruder = run.slurm.start_intruder()
    elif kind == "drill":
        send_stop_signal(run.folder, find_live(run.folder))
    elif kind == "requeue":
        run.slurm.run("scontrol", "requeue", str(job))
    else:
        _shorten_limit(run, job)
    wait_for(folder.stop_json.exists, 150.0, f"the {kind} to be heard of", 0.01)
    _check_deadline(run, attempt, kind, result)
    if intruder is not None:
        run.slurm.wait_state(intruder, "RUNNING", seconds=90.0)
        run.slurm.cancel(intruder)
    wait_for(folder.outcome_json.exists, 60.0, "the end of the attempt")
    wait_for(lambda: hasten(run.folder) or run.steps_of(0, attempt + 1), 120.0, "the next attempt")
    run.wait_step(1, attempt + 1)
    result.count += 1
    cause = run.outcome(attempt).get("cause")
    result.right_causes += cause == KINDS[kind]
    if cause != KINDS[kind]:
        result.misses.append(f"attempt {attempt}: {kind} was taken for {cause}")
    if kind == "drill":
        _measure(run, attempt, told, result)


def _check_deadline(run: ToyRun, attempt: int, kind: str, result: Stops) -> None:
    """Compare the deadline with Slurm's own while the ranks still save."""
    if kind not in ("urgent", "limit"):
        return
    ends = parse_time(run.slurm.job(run.job_id).get("EndTime"))
    stop = run.stop_of(attempt)
    result.deadlines += 1
    is_right = ends is not None and abs((stop.get("deadline") or 0) - ends) <= 1
    result.right_deadlines += is_right
    if not is_right:
        result.misses.append(f"attempt {attempt}: deadline {stop.get('deadline')}, Slurm's {ends}")


def _shorten_limit(run: ToyRun, job: int) -> None:
    started = parse_time(run.slurm.job(job)["StartTime"]) or time.time()
    minutes = 2 + int(time.time() - started) // 60
    run.slurm.run("scontrol", "update", f"jobid={job}", f"TimeLimit={minutes}")


def _measure(run: ToyRun, attempt: int, told: float, result: Stops) -> None:
    last = [
        max(line["time"] for line in run.steps(rank) if line["attempt"] == attempt)
        for rank in range(WORLD_SIZE)
    ]
    first = [
        min(line["time"] for line in run.steps(rank) if line["attempt"] == attempt + 1)
        for rank in range(WORLD_SIZE)
    ]
    started = (read_json(run.folder.attempt(attempt + 1).node_json(0)) or {})["started"]
    result.to_stopped.append(max(last) - told)
    result.gaps.append(started - run.outcome(attempt)["ended"])
    result.to_resumed.append(max(first) - max(last))


def _lost_steps(run: ToyRun) -> int:
    """Steps that any rank did twice, left out, or did with another value than an unbroken run."""
    run.assert_right_values()
    lost = 0
    for rank in range(WORLD_SIZE):
        steps = [line["step"] for line in run.steps(rank)]
        lost += len(set(range(1, max(steps) + 1)) ^ set(steps)) + len(steps) - len(set(steps))
    return lost
