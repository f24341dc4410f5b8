"""The profile that the doctor writes for a real Slurm is one that this Slurm takes jobs from."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cluster import build_resources, load_cluster
from jobs.doctor import examine, profile_text
from jobs.doctor_command import write_profile
from jobs.site import read_site
from jobs.spec import JobSpec
from jobs.submit import Place, launch
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import CPUS_PER_NODE, GPUS_PER_NODE
from tests.slurm.toy_run import copy_project

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_the_doctors_profile_launches(slurm: SlurmClient, tmp_path: Path) -> None:
    site = read_site()
    assert {each.name for each in site.partitions} == {"a100", "nograce", "urgent"}
    assert [node.gpus for node in site.nodes] == [{"": GPUS_PER_NODE}] * 4
    findings = examine(site)
    assert not [each for each in findings if each.level == "problem"]
    assert any("cgroup" in each.text for each in findings)

    project = copy_project(tmp_path / "project")
    preambles = project / "slurm_templates" / "preambles"
    preambles.mkdir(parents=True)
    (preambles / "nccl_ethernet.sh").touch()
    text = profile_text(site, has_infiniband=False)
    write_profile(project / "configs", "written", text, replaces=False)
    cluster = load_cluster(project / "configs", "written")
    ask = build_resources(cluster, {"nodes": 2})
    assert (ask.partition, ask.gpus_per_node) == ("a100", GPUS_PER_NODE)
    assert ask.cpus_per_node == CPUS_PER_NODE
    spec = JobSpec("pretrain", "toy", "toy_trainer", ("steps=5",), ask)
    place = Place(home=project, runs=tmp_path / "runs", snapshots=tmp_path / "snapshots")
    launched = launch(spec, cluster, place, "slurm")
    slurm.wait_state(int(launched.job_id), "RUNNING", "COMPLETED")
