"""Queueing many runs as arrays against submitit's `map_array`, which pickles each.

Slurm's programs are stand-ins that answer at once, as a site would with MaxArraySize 1001 (or, for
submitit, which cannot split, one large enough): what is measured is our side.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

import pytest
import submitit
from pytest_benchmark.fixture import BenchmarkFixture

from jobs.array import ArrayFolder
from jobs.array_launch import launch_array
from jobs.cluster import Cluster
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.submit import Place
from tests.architecture.source import ROOT
from tests.bench.ratio import report_ratio

ANSWERS = {
    "sbatch": 'echo "Submitted batch job 7"',
    "srun": "",
    "squeue": "",
    "sinfo": "",
    "scontrol": 'printf "MaxArraySize = 1001\\nMaxJobCount = 100000\\n"',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A project of this repository's jobs folder, and Slurm's programs as stand-ins."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, answer in ANSWERS.items():
        (programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    shutil.copytree(ROOT / "jobs", tmp_path / "project" / "jobs")
    return Place(tmp_path / "project", tmp_path / "runs", tmp_path / "snapshots")


def specs(count: int, family: int) -> list[JobSpec]:
    ask = Resources(nodes=1, gpus_per_node=8, processes_per_node=8, partition="a100")
    words = ("train", "--config", "configs/x.yaml", f"family={family}")
    return [
        JobSpec("pretrain", "x", arguments=(*words, f"seed={seed}"), resources=ask)
        for seed in range(count)
    ]


def work(words: tuple[str, ...]) -> None:
    print(words)


@pytest.mark.parametrize("count", [1000, 10_000])
def test_queueing_an_array(place: Place, count: int, benchmark: BenchmarkFixture) -> None:
    families = itertools.count()
    cluster = Cluster("bench", partition="a100")
    launched = launch_array(specs(count, next(families)), cluster, place, "slurm")
    assert launched.queued == count and launched.array is not None
    assert len(launched.jobs) == -(-count // 1001)
    members = ArrayFolder(launched.array).read_members()
    assert members[-1].arguments[-1] == f"seed={count - 1}"
    assert len([path for path in place.runs.rglob("*") if path.is_file()]) < 20 * len(launched.jobs)

    def ours() -> None:
        launch_array(specs(count, next(families)), cluster, place, "slurm")

    def theirs() -> None:
        folder = place.runs / f"submitit{next(families)}"
        executor = submitit.SlurmExecutor(folder)
        executor.map_array(work, [spec.arguments for spec in specs(count, next(families))])

    benchmark.pedantic(ours, rounds=1)
    report_ratio(f"an array of {count} against submitit's map_array", ours, theirs)
    start = time.perf_counter()
    for _ in range(7):
        take_snapshot(place.home, place.snapshots, exclude=[place.runs])
    print(f"of which the snapshot {(time.perf_counter() - start) / 7 * 1e3:.1f} ms")
