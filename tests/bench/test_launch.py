"""From the start of Python to a job id on the real Slurm, against sbatch alone and submitit.

The project has 1,708 files. submitit's way is a script that imports it, takes its RsyncSnapshot and
submits a function: without provenance, run folder, check of the configuration or ledger.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from jobs.submitter import submit_script
from tests.bench.ratio import report_ratio
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.conftest import bring_up_or_skip
from tests.slurm.journey import make_checkout

FILES = 1708
PLAIN = """
import submitit, sys, time
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=5, nodes=1)
print(executor.submit(time.time).job_id)
"""
WITH_COPY = """
import submitit, sys, time
from pathlib import Path
from submitit.helpers import RsyncSnapshot
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=5, nodes=1)
with RsyncSnapshot(Path(sys.argv[1]) / "code", root_dir=sys.argv[2]):
    print(executor.submit(time.time).job_id)
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmClient]:
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = bring_up_or_skip(Settings(folder / "s", num_nodes=1))
    client = SlurmClient(local)
    # nothing may start: jobs would take the time that is measured
    client.run("scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=bench")
    environment = os.environ.copy()
    os.environ.update(local.environment)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps its byte code
    yield client
    os.environ.clear()
    os.environ.update(environment)
    local.down()
    folder.rmdir()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    project = make_checkout(tmp_path_factory.mktemp("launch") / "p", corpus, gpus=2, steps=5)
    have = sum(1 for path in project.rglob("*") if path.is_file())
    for number in range(FILES - have):
        path = project / f"extra/part{number % 40}/file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"value = {number}\n" * 500)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b.c commit -qm x"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    return project


def run(project: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def test_cold_launch(
    slurm: SlurmClient, checkout: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    numbers = itertools.count()

    def ours() -> str:
        name = f"run{next(numbers)}"
        return run(checkout, sys.executable, "launchers/pretrain.py", "--name", name)

    def sbatch() -> str:
        return run(checkout, "sbatch", "--parsable", "--wrap=true", f"--output={tmp_path}/%j")

    def plain() -> str:
        return run(checkout, sys.executable, "-c", PLAIN, str(tmp_path / f"s{next(numbers)}"))

    def with_copy() -> str:
        folder = str(tmp_path / f"s{next(numbers)}")
        return run(checkout, sys.executable, "-c", WITH_COPY, folder, str(checkout))

    shown = ours()
    assert "job " in shown
    folder = Path(shown.split("run folder")[1].split()[0])
    assert (folder / "provenance/packages.txt").is_file()
    assert sbatch().strip().isdecimal() and with_copy().strip().splitlines()[-1].isdecimal()
    benchmark.pedantic(ours, rounds=1)
    raw = report_ratio("launch, unchanged code, against sbatch alone", ours, sbatch, rounds=9)
    print(f"that is {raw.ours_ms - raw.baseline_ms:.0f} ms over sbatch (aim: at most 120)")
    report_ratio("launch against python + submitit without a copy of the code", ours, plain)
    report_ratio("launch against python + submitit + RsyncSnapshot (aim: 4)", ours, with_copy)


def test_submissions_one_after_the_other(
    slurm: SlurmClient, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    import submitit

    numbers = itertools.count()
    count = 5
    theirs = submitit.SlurmExecutor(tmp_path / "theirs")
    theirs.update_parameters(time=5, nodes=1)

    def ours() -> list[str]:
        parameters = {"time": 5, "nodes": 1}
        return [
            submit_script(
                tmp_path / "ours", {**parameters, "comment": f"n{next(numbers)}"}, os.getpid
            )
            for _ in range(count)
        ]

    assert len(set(ours())) == count
    benchmark.pedantic(ours, rounds=1)
    result = report_ratio(
        f"{count} submissions against submitit's",
        ours,
        lambda: [theirs.submit(os.getpid) for _ in range(count)],
    )
    print(f"that is {result.ours_ms / count:.1f} ms each (aim: at most 15, and 13 times faster)")
