"""Code edited, added or deleted between submission and start is not seen by the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import copy_project, launch_toy

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_code_edited_while_the_job_waits_is_not_seen(slurm: SlurmClient, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    trainer = project / "toy_trainer.py"
    intruder = slurm.start_intruder()
    slurm.wait_state(intruder, "RUNNING")
    run = launch_toy(slurm, tmp_path, num_steps=10)
    assert slurm.state(run.job_id) == "PENDING"

    trainer.write_text(trainer.read_text().replace("as submitted", "edited later"))
    (project / "jobs" / "rank.py").unlink()
    (project / "json.py").write_text("raise SystemExit('a file added later was imported')\n")
    slurm.cancel(intruder)

    run.wait_end()
    run.assert_no_step_lost_or_repeated()
    assert (read_json(run.folder.result_json) or {})["version"] == "as submitted"


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_edited_code_launched_again_is_another_run(slurm: SlurmClient, tmp_path: Path) -> None:
    first = launch_toy(slurm, tmp_path, num_steps=10)
    trainer = tmp_path / "project" / "toy_trainer.py"
    trainer.write_text(trainer.read_text().replace("as submitted", "edited later"))
    second = launch_toy(slurm, tmp_path, num_steps=10)
    assert first.folder.path != second.folder.path
    for run, version in ((first, "as submitted"), (second, "edited later")):
        run.wait_end()
        assert (read_json(run.folder.result_json) or {})["version"] == version
