"""`python -m jobs list` of 1,000 runs against one `squeue -j` or `scontrol show job` for each run.

The jobs are real: members of held arrays on a local Slurm of their own. Both sides count what they
ask of it, through wrappers on PATH in a run of its own, as the wrappers take time.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.architecture.source import ROOT
from tests.bench.ratio import report_ratio
from tests.jobs.launched_runs import make_launched, train_lines
from tests.slurm.call_counter import CallCounter
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.conftest import bring_up_or_skip

ARRAYS, MEMBERS = 20, 50
# Of the baseline a part is timed and scaled: a thousand calls take ten seconds.
SAMPLE = 100


@dataclass(frozen=True)
class Runs:
    """A thousand runs that wait or run, and their jobs."""

    folder: Path
    job_ids: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with tempfile.TemporaryDirectory(prefix="egovl-bench-") as name:
        local = bring_up_or_skip(Settings(Path(name) / "s", num_nodes=1))
        try:
            client = SlurmClient(local)
            arrays = [
                client.submit("sleep 60", "--hold", f"--array=0-{MEMBERS - 1}")
                for _ in range(ARRAYS)
            ]
            job_ids = [f"{array}_{member}" for array in arrays for member in range(MEMBERS)]
            folder = Path(name) / "runs"
            for number, job_id in enumerate(job_ids):
                state = "running" if number % 2 else "queued"
                run = make_launched(folder, f"pretrain/base-{number:08x}", state, job_id)
                train_lines(run, range(1, 60), at=time.time())
            yield Runs(folder, job_ids, client.environment)
        finally:
            local.down()


def ask(runs: Runs, *words: str, counter: CallCounter | None = None) -> str:
    env = runs.environment | (counter.environment if counter else {})
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True).stdout


def show_all(runs: Runs, counter: CallCounter | None = None) -> str:
    words = (sys.executable, "-m", "jobs", "list", "--runs", str(runs.folder))
    return ask(runs, *words, *(["--json"] if counter else []), counter=counter)


def cpu_ms(run: Callable[[], object], rounds: int = 7) -> float:
    """Median processor time of a command: what its wall time is on an idle machine."""
    times: list[float] = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        times.append(used * 1e3)
    return statistics.median(times)


def test_listing_1000_runs(runs: Runs, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    counter = CallCounter.make(tmp_path)
    shown = json.loads(show_all(runs, counter))["runs"]
    assert [row["state"] for row in shown] == ["queued"] * len(runs.job_ids)
    assert {row["job_id"] for row in shown} == set(runs.job_ids)
    calls = counter.taken()
    assert len(calls) <= 1 and not any(call.startswith("sacct") for call in calls)

    def one_by_one(*words: str) -> list[str]:
        return [ask(runs, *words, job_id).strip() for job_id in runs.job_ids[:SAMPLE]]

    squeue = ("squeue", "--noheader", "--format=%T", "-j")
    scontrol = ("scontrol", "--oneliner", "show", "job")
    assert one_by_one(*squeue) == ["PENDING"] * SAMPLE
    assert all("JobState=PENDING" in each for each in one_by_one(*scontrol))
    benchmark.pedantic(lambda: show_all(runs), rounds=1)
    bare = cpu_ms(lambda: ask(runs, sys.executable, "-c", "pass"))
    ours = cpu_ms(lambda: show_all(runs))
    print(
        f"\nprocessor time of listing {len(runs.job_ids)} runs: {ours:.0f} ms, of a bare "
        f"python {bare:.0f} ms, load {os.getloadavg()[0]:.1f} (aim: 150 ms in all)"
    )
    scale = len(runs.job_ids) // SAMPLE
    for words in (squeue, scontrol):
        result = report_ratio(
            f"listing {len(runs.job_ids)} runs against {SAMPLE} `{words[0]}`, one a run",
            lambda: show_all(runs),
            lambda words=words: one_by_one(*words),
        )
        print(
            f"for all {len(runs.job_ids)} runs that is {scale * result.ratio:.0f} times faster, "
            f"with {len(calls)} call(s) to the controller instead of {len(runs.job_ids)}, no sacct"
        )
