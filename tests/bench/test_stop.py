"""Stopping and going on, on the real Slurm: a run of 2 nodes x 2 ranks told to stop, seven times.

Beside it, at the same time on the same Slurm, a plain batch script that asks to be requeued, as
launchers without an agent do; and the bare import of torch by as many processes as the run has.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.engine.signals import StopRequest
from jobs.run_folder import read_json
from tests.bench.ratio import report_ratio
from tests.slurm.call_counter import CallCounter
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.conftest import bring_up_or_skip
from tests.slurm.soak_stops import Stops, stop_once
from tests.slurm.toy_run import WORLD_SIZE, ToyRun, launch_toy
from tests.slurm.waiting import wait_for

DRILLS = 7
LOOKS = 10_000
REQUEUED = """date +%s.%N >> {times}
test -n "$SLURM_RESTART_COUNT" || scontrol requeue $SLURM_JOB_ID
sleep 600"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmClient]:
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = bring_up_or_skip(Settings(folder / "s", credential_sec=120))
    environment = os.environ.copy()
    os.environ.update(local.environment)
    yield SlurmClient(local)
    os.environ.clear()
    os.environ.update(environment)
    local.down()
    folder.rmdir()


def test_cost_of_the_stop_check(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    file = tmp_path / "stop.json"
    request = StopRequest(str(file))

    def looks(look: Callable[[], object]) -> None:
        for _ in range(LOOKS):
            look()

    result = report_ratio(
        f"{LOOKS} looks for a stop, against Path.exists",
        lambda: looks(request.requested),
        lambda: looks(file.exists),
    )
    print(f"one look: {1e3 * result.ours_ms / LOOKS:.2f} us")
    assert not request.requested()
    file.touch()
    assert request.requested()
    benchmark(request.requested)


def test_stop_to_the_next_step(
    slurm: SlurmClient, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    times, result = tmp_path / "requeued", Stops("drills")
    asked = slurm.submit(REQUEUED.format(times=times), "--requeue", "--partition=a100")
    counter = CallCounter.make(tmp_path)
    preamble = (f"export PATH={counter.folder}:$PATH",)
    run = launch_toy(slurm, tmp_path, num_steps=1_000_000, preamble=preamble)
    for attempt in range(1, DRILLS + 1):
        run.wait_step(5 + max(line["step"] for line in run.steps(0)) if attempt > 1 else 5, attempt)
        stop_once(run, attempt, "drill", result)
    calls = counter.taken()
    slurm.cancel(run.job_id)
    wait_for(lambda: len(lines_of(times)) == 2, 300.0, "the plain job to be started again")
    slurm.cancel(asked)
    first, again = lines_of(times)

    medians = [statistics.median(v) for v in (result.to_stopped, result.gaps, result.to_resumed)]
    begun, bare = statistics.median(starts(run)), bare_import_sec()
    programs = ", ".join(sorted({call.split()[0] for call in calls}))
    print(
        f"\n{WORLD_SIZE} ranks, steps of 50 ms, medians of {DRILLS} stops: signal to all stopped "
        f"{medians[0]:.2f} s; end of an attempt to the start of the next {medians[1]:.2f} s, by "
        f"`scontrol requeue` {again - first:.0f} s; last step to the next one with its save "
        f"{medians[2]:.1f} s; agent to first step {begun:.1f} s, as many bare imports of torch at "
        f"once {bare:.1f} s; causes right {result.right_causes}/{result.count}; calls from the "
        f"jobs {len(calls) / DRILLS:.1f} an attempt ({programs})"
    )
    assert (result.count, result.right_causes) == (DRILLS, DRILLS)
    benchmark.pedantic(bare_import_sec, rounds=1)


def lines_of(times: Path) -> list[float]:
    """When the plain script began."""
    return [float(line) for line in times.read_text().split()] if times.exists() else []


def starts(run: ToyRun) -> list[float]:
    """Seconds from the first sign of a node's agent to the last rank's first step, by attempt."""
    found: list[float] = []
    for attempt in range(1, DRILLS + 1):
        began = (read_json(run.folder.attempt(attempt).node_json(0)) or {})["started"]
        firsts = [
            min(line["time"] for line in run.steps(rank) if line["attempt"] == attempt)
            for rank in range(WORLD_SIZE)
        ]
        found.append(max(firsts) - began)
    return found


def bare_import_sec() -> float:
    """As many Pythons at once as the run has ranks, which import torch and end."""
    start = time.perf_counter()
    words = [sys.executable, "-c", "import torch"]
    for process in [subprocess.Popen(words) for _ in range(WORLD_SIZE)]:
        assert process.wait() == 0
    return time.perf_counter() - start
