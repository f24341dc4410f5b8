"""The main job through the real Slurm, from mp4 to the result table."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.journey import Journey, command, differences, make_checkout

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 150  # a preemption takes a second or two to arrive: the run must not be over by then


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_the_published_command_trains_and_reports(
    slurm: SlurmClient, corpus: Path, tmp_path: Path
) -> None:
    project = make_checkout(tmp_path / "project", corpus, gpus=1, steps=20)
    run = Journey.launch(slurm, project, "--nodes", "4", "--partition", "a100")
    run.wait_done()
    exits = list((run.folder.path / "attempts/1/exit").iterdir())
    assert len(exits) == 4
    for rank in range(4):  # each has found its node fit before it began
        report = read_json(run.folder.attempt(1).rank_preflight_json(rank)) or {}
        checks = {check["name"]: check["state"] for check in report["checks"]}
        assert checks == dict.fromkeys(("gemm", "inputs", "all_reduce"), "passed")
    table = command(project, "launchers/collect_results.py")
    assert run.folder.path.name in table or "journey" in table
    assert "done" in table
    assert "egomcq" in table
    assert (project / "runs/report.html").exists()


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Journey]:
    """Finished runs that were never stopped, one is enough for all trackers."""
    return {}


def test_preempted_twice_the_run_equals_the_unbroken_one_bit_for_bit(
    slurm: SlurmClient, corpus: Path, tmp_path: Path, unbroken: dict[str, Journey]
) -> None:
    project = make_checkout(tmp_path / "project", corpus, gpus=2, steps=STEPS, save_every=7)
    flags = ("--nodes", "2", "--partition", "a100")
    if not unbroken:
        whole = Journey.launch(slurm, project, *flags, "--name", "whole")
        whole.wait_done()
        unbroken["run"] = whole
    run = Journey.launch(slurm, project, *flags, "--name", "broken")
    for low, high in ((3, 40), (60, 100)):
        run.wait_step(random.randint(low, high))
        run.preempt()
    run.wait_done()
    assert run.folder.attempt_numbers() == [1, 2, 3]
    assert run.repeated_steps() == 0
    assert differences(run, unbroken["run"]) == []
