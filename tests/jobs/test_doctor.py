from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster import build_resources, load_cluster, slurm_parameters
from jobs.doctor import examine, profile_text, spell_time
from jobs.doctor_command import disk_type, write_profile
from jobs.errors import ConfigError
from jobs.site import Partition, Site, is_mig, parse_gres, parse_limit, parse_node, parse_partition
from jobs.slurm import parse_fields
from jobs.spec import JobSpec
from tests.architecture.source import ROOT

NODE = (
    "NodeName=gpu7 Arch=x86_64 CoresPerSocket=48 CPUAlloc=0 CPUTot=96 CPULoad=0.10 "
    "AvailableFeatures=a100,80g ActiveFeatures=a100,80g Gres=gpu:a100:8(S:0-1) NodeAddr=gpu7 "
    "OS=Linux 5.14.0 #1 SMP RealMemory=1031000 AllocMem=0 State=IDLE+DRAIN ThreadsPerCore=1 "
    "Partitions=gpu,short Reason=fan [root@2026-01-01T00:00:00]"
)
PARTITION = (
    "PartitionName=gpu AllowGroups=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=01:00:00 "
    "GraceTime=60 MaxNodes=UNLIMITED MaxTime=7-00:00:00 PriorityTier=1 State=UP "
    "PreemptMode=REQUEUE TotalNodes=2"
)
CONFIG = {
    "SLURM_VERSION": "23.11.4",
    "ClusterName": "alps",
    "ProctrackType": "proctrack/cgroup",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "KillWait": "30 sec",
    "MaxArraySize": "1001",
    "MaxJobCount": "10000",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AuthInfo": "(null)",
    "JobRequeue": "1",
}


def make_site(**config: str) -> Site:
    node = parse_node(parse_fields(NODE))
    partition = parse_partition(parse_fields(PARTITION), "OFF")
    nodes = (
        replace(node, state="idle"),
        replace(node, name="gpu8", state="idle", cpus=64),
        replace(node, name="cpu1", partitions=("cpu",), gpus={}, memory_mb=256_000, state="idle"),
    )
    urgent = replace(partition, name="urgent", tier=9, is_default=False)
    cpu = replace(partition, name="cpu", is_default=False, max_time_sec=3600, tier=9)
    return Site(CONFIG | config, (partition, urgent, cpu), nodes, 3.0)


def words(site: Site, level: str, disk: str = "") -> str:
    return "\n".join(each.text for each in examine(site, disk) if each.level == level)


def test_nodes_and_partitions_are_read_as_scontrol_prints_them() -> None:
    node = parse_node(parse_fields(NODE))
    assert (node.name, node.cpus, node.memory_mb) == ("gpu7", 96, 1031000)
    assert node.gpus == {"a100": 8} and node.features == ("a100", "80g")
    assert node.partitions == ("gpu", "short")
    assert node.state == "drained" and not node.is_usable
    partition = parse_partition(parse_fields(PARTITION), "OFF")
    assert partition == Partition("gpu", True, True, 604800, 3600, 60, "REQUEUE", 1, True)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:a100:8(S:0-1)", {"a100": 8}),
        ("gpu:2", {"": 2}),
        ("gpu:1g.10gb:4,gpu:3g.40gb:1,shard:16", {"1g.10gb": 4, "3g.40gb": 1}),
        ("(null)", {}),
    ],
)
def test_gres_gives_types_and_counts(text: str, gpus: dict[str, int]) -> None:
    assert parse_gres(text) == gpus
    assert [is_mig(kind) for kind in gpus] == ["gb" in kind for kind in gpus]


@pytest.mark.parametrize(
    ("text", "seconds"), [("7-00:00:00", 604800), ("00:30:00", 1800), ("UNLIMITED", None)]
)
def test_time_limits_are_read_and_spelt_alike(text: str, seconds: int | None) -> None:
    assert parse_limit(text) == seconds
    if seconds:
        assert parse_limit(spell_time(seconds)) == seconds


def test_a_usual_site_has_no_problem_and_its_facts_are_named() -> None:
    site = make_site()
    assert not words(site, "problem")
    text = words(site, "ok", "lustre")
    for fact in ("23.11.4", "alps", "agent alone", "REQUEUE, 60 s", "7-00:00:00", "120 s", "1000"):
        assert fact in text, fact
    assert "urgent" not in text.split("partition gpu")[1].split("\n")[0]


def test_what_needs_care_is_a_note() -> None:
    partition = replace(make_site().partitions[0], grace_sec=0, submits_from_nodes=False)
    site = replace(
        make_site(ProctrackType="proctrack/pgid", JobSubmitPlugins="lua", KillWait="10 sec"),
        partitions=(partition, replace(partition, name="high", tier=5)),
    )
    text = words(site, "note")
    for fact in ("pgid", "lua", "save often", "may not submit"):
        assert fact in text, fact


def test_a_site_without_nodes_or_with_a_local_disk_is_a_problem() -> None:
    site = make_site()
    down = replace(site, nodes=tuple(replace(node, state="down") for node in site.nodes))
    assert "no node takes jobs" in words(down, "problem")
    assert "local disk (ext4)" in words(site, "problem", "ext4")
    assert disk_type(Path("/proc/self")) == "proc"


def test_the_profile_loads_and_asks_for_what_every_node_can_give(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    preambles = tmp_path / "slurm_templates" / "preambles"
    preambles.mkdir(parents=True)
    (preambles / "nccl_ethernet.sh").write_text("export A=1\n")
    path = write_profile(configs, "alps", profile_text(make_site(), has_infiniband=False), False)
    cluster = load_cluster(configs, "alps")
    assert (cluster.slurm_cluster, cluster.partition) == ("alps", "gpu")
    ask = build_resources(cluster, {"nodes": 2})
    assert (ask.gpus_per_node, ask.cpus_per_process, ask.time_limit_sec) == (8, 8, 172800)
    assert slurm_parameters(JobSpec("pretrain", "x", resources=ask), cluster)["gpus_per_node"] == 8
    cpu = build_resources(cluster, {"partition": "cpu"})
    assert (cpu.gpus_per_node, cpu.cpus_per_process, cpu.time_limit_sec) == (0, 96, 3600)
    with pytest.raises(ConfigError, match="--force"):
        write_profile(configs, "alps", "", False)
    assert write_profile(configs, "alps", "executor: slurm\n", True) == path
    with pytest.raises(ConfigError, match="no name"):
        write_profile(configs, "../x", "", False)


def test_a_site_of_slices_names_the_slice_in_its_profile() -> None:
    site = make_site()
    sliced = tuple(replace(node, gpus={"1g.10gb": 7}) for node in site.nodes[:2])
    text = profile_text(replace(site, nodes=sliced), has_infiniband=True)
    assert "gpu_type: 1g.10gb" in text and "nccl_infiniband" in text
    assert "MIG" in words(replace(site, nodes=sliced), "note")


def test_without_slurm_the_doctor_says_where_to_run_it() -> None:
    command = [sys.executable, "-m", "jobs", "doctor"]
    env = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "run this on a login node" in done.stderr
