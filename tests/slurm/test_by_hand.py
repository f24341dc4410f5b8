"""A job submitted by hand is the run that the launcher would have made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.run_folder import RunFolder, read_json
from tests.slurm.client import SlurmClient
from tests.slurm.journey import command, make_checkout
from tests.slurm.waiting import wait_for

pytestmark = pytest.mark.slurm

OPTIONS = ("--nodes=1", "--gpus-per-node=1", "--cpus-per-task=2", "--time=10")


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_a_job_submitted_by_hand_is_the_launchers_run(
    slurm: SlurmClient, tmp_path: Path, corpus: Path
) -> None:
    project = make_checkout(tmp_path / "project", corpus, gpus=1, steps=200, save_every=50)
    python = Path(sys.executable).parent
    environment = slurm.environment | {"PATH": f"{python}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sbatch", "--parsable", *OPTIONS, "slurm_templates/by_hand.sbatch", "pretrain"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job_id = int(done.stdout)
    log = project / f"egovl-{job_id}.log"

    def newest() -> RunFolder | None:
        found = list((project / "runs" / "pretrain").glob("journey-*"))
        return RunFolder(found[0]) if found else None

    def trains() -> bool:
        run = newest()
        return run is not None and run.metrics_jsonl.exists()

    wait_for(trains, 120, f"the first step; {log.read_text() if log.exists() else 'no log'}")
    run = newest()
    assert run is not None
    slurm.run("scancel", "--signal=USR2", str(job_id))
    wait_for(lambda: run.read_state()["state"] == "done", 400, f"the end: {log.read_text()}")
    claims = [read_json(run.attempt(number).claim_json) or {} for number in (1, 2)]
    assert claims[1]["by"] == "successor"
    assert len(run.attempt_numbers()) == 2
    # the launcher, asked for the same, finds it
    shown = command(project, "launchers/pretrain.py", "--nodes", "1")
    assert f"{run.path} is done" in shown
