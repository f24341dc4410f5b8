"""What Slurm refuses is said in Slurm's words and leaves no folder behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.errors import SubmitError
from jobs.spec import JobSpec, Resources
from jobs.submit import Place, launch
from tests.slurm.client import SlurmClient
from tests.slurm.toy_run import copy_project

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.parametrize("slurm_session", ["linuxproc"], indirect=True),
]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(partition="a1000"), "a1000.*urgent"),
        (Resources(partition="a100", gpus_per_node=3), "[Nn]ode configuration"),
    ],
)
def test_refused_submission_shows_slurms_message_and_leaves_no_run_folder(
    slurm: SlurmClient, tmp_path: Path, resources: Resources, words: str
) -> None:
    project = copy_project(tmp_path / "project")
    spec = JobSpec("pretrain", "toy", "toy_trainer", ("steps=5",), resources)
    place = Place(home=project, runs=tmp_path / "runs", snapshots=tmp_path / "snapshots")
    with pytest.raises(SubmitError, match=words):
        launch(spec, Cluster(name="testbed"), place, "slurm")
    assert not list((tmp_path / "runs").glob("pretrain/*"))
    assert not slurm.run("squeue", "--noheader").strip()
