"""The first ports that a run would meet at are taken: it starts with the next one."""

from __future__ import annotations

import contextlib
from itertools import islice
from pathlib import Path

import pytest

from jobs.rendezvous import ephemeral_low, hold_port, port_candidates
from jobs.run_folder import read_json
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec
from jobs.submit import Place, run_folder_of
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import NUM_NODES, copy_project, launch_toy

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]

NUM_TAKEN = 3


def future_name(folder: Path) -> str:
    """The name that `launch_toy(slurm, folder, num_steps=10)` will give to its run."""
    place = Place(folder / "project", folder / "runs", folder / "snapshots")
    snapshot = take_snapshot(copy_project(place.home), place.snapshots, exclude=[place.runs])
    spec = JobSpec("pretrain", "toy", "toy_trainer", ("steps=10",))
    return run_folder_of(spec, place, snapshot).path.name


def test_job_starts_with_the_next_port_when_the_first_ones_are_taken(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    name = future_name(tmp_path)
    ports = list(islice(port_candidates(name, 1, ephemeral_low()), 20))
    with contextlib.ExitStack() as taken:
        for port in ports[:NUM_TAKEN]:
            if (held := hold_port(port)) is not None:
                held.listen()
                taken.enter_context(held)
        run = launch_toy(slurm, tmp_path, num_steps=10)
        assert run.folder.path.name == name
        run.wait_end()
    run.assert_no_step_lost_or_repeated()
    rendezvous = read_json(run.folder.attempt(1).rendezvous_json) or {}
    assert rendezvous["port"] in ports[NUM_TAKEN:]
    assert (rendezvous["round"], run.folder.attempt_numbers()) == (0, [1])
    for node in range(NUM_NODES):
        report = read_json(run.folder.attempt(1).preflight_json(node)) or {}
        assert report["state"] == "passed"
