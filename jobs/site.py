"""What Slurm says about its site: configuration, partitions, nodes; read in three calls."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jobs import slurm

# Kinds of `Gres=gpu:TYPE:COUNT(...)`; MIG slices carry their size: 1g.10gb.
_GPU = re.compile(r"gpu(?::(?P<type>[^:,()=]+))?:(?P<count>\d+)")
_MIG = re.compile(r"\d+g\.\d+gb", re.IGNORECASE)
_NEVER = ("UNLIMITED", "INFINITE", "NONE")


@dataclass(frozen=True)
class Node:
    """One node: what it has.

    Attributes:
        gpus: GPU type ("" where Slurm names none) -> how many.
        memory_mb: what Slurm may give out.
        state: the base state, lower case: idle, mixed, allocated, down, ...
    """

    name: str
    partitions: tuple[str, ...]
    cpus: int
    memory_mb: int
    gpus: Mapping[str, int]
    features: tuple[str, ...]
    state: str

    @property
    def num_gpus(self) -> int:
        """GPUs of all types."""
        return sum(self.gpus.values())

    @property
    def is_usable(self) -> bool:
        """Whether jobs may come here now or after other jobs."""
        return self.state in ("idle", "mixed", "allocated", "completing", "planned", "reserved")


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        max_time_sec: the longest time limit; None without one.
        grace_sec: seconds between the warning of a preemption and its end.
        preempt_mode: REQUEUE, CANCEL, SUSPEND, OFF: what happens to the jobs preempted in it.
        tier: jobs of a higher tier preempt those of a lower one (`preempt/partition_prio`).
        submits_from_nodes: whether a job may submit another from its node.
    """

    name: str
    is_default: bool
    is_up: bool
    max_time_sec: int | None
    default_time_sec: int | None
    grace_sec: int
    preempt_mode: str
    tier: int
    submits_from_nodes: bool


@dataclass(frozen=True)
class Site:
    """Everything that `read_site` found.

    Attributes:
        config: `scontrol show config`, key to value.
        answer_ms: how long Slurm took for it.
    """

    config: Mapping[str, str]
    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]
    answer_ms: float

    def setting(self, key: str) -> str:
        """Return a value of slurm.conf; empty if not set."""
        value = self.config.get(key, "")
        return "" if value in ("(null)", "N/A") else value

    def nodes_of(self, partition: str) -> list[Node]:
        """Return the nodes of a partition."""
        return [node for node in self.nodes if partition in node.partitions]


def read_site() -> Site:
    """Ask Slurm.

    Raises:
        SubmitError: if Slurm does not answer.
    """
    started = time.perf_counter()
    config = slurm.show_config()
    answer_ms = 1000 * (time.perf_counter() - started)
    mode = config.get("PreemptMode", "OFF")
    return Site(
        config,
        tuple(parse_partition(line, mode) for line in slurm.show_all("partition")),
        tuple(parse_node(line) for line in slurm.show_all("node")),
        answer_ms,
    )


def parse_partition(fields: Mapping[str, str], cluster_mode: str) -> Partition:
    """Return a partition from the fields of `scontrol show partition`."""
    return Partition(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        is_up=fields.get("State", "UP") == "UP",
        max_time_sec=parse_limit(fields.get("MaxTime", "UNLIMITED")),
        default_time_sec=parse_limit(fields.get("DefaultTime", "NONE")),
        grace_sec=int(fields.get("GraceTime", "0")),
        preempt_mode=fields.get("PreemptMode", cluster_mode),
        tier=int(fields.get("PriorityTier", "1")),
        submits_from_nodes=fields.get("AllocNodes", "ALL") == "ALL",
    )


def parse_node(fields: Mapping[str, str]) -> Node:
    """Return a node from the fields of `scontrol show node`."""
    state = re.split(r"[+*~#!%$@^-]", fields.get("State", "UNKNOWN"))
    is_out = any(word in ("DRAIN", "FAIL", "MAINT") for word in state[1:])
    return Node(
        name=fields["NodeName"],
        partitions=_words(fields.get("Partitions", "")),
        cpus=int(fields.get("CPUTot", "1")),
        memory_mb=int(fields.get("RealMemory", "1")),
        gpus=parse_gres(fields.get("Gres", "")),
        features=_words(fields.get("AvailableFeatures", "")),
        state="drained" if is_out else state[0].lower(),
    )


def parse_gres(text: str) -> dict[str, int]:
    """Return GPU type -> count of a `Gres=` value such as `gpu:a100:8(S:0-1),shard:16`."""
    found: dict[str, int] = {}
    for match in _GPU.finditer(text):
        kind = match["type"] or ""
        found[kind] = found.get(kind, 0) + int(match["count"])
    return found


def is_mig(gpu_type: str) -> bool:
    """Return whether a GPU type is a slice of a card (NVIDIA MIG)."""
    return _MIG.search(gpu_type) is not None


def parse_limit(text: str) -> int | None:
    """Return the seconds of `2-00:00:00` as scontrol prints times; None for no limit."""
    if text in _NEVER:
        return None
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def _words(text: str) -> tuple[str, ...]:
    return () if text in ("", "(null)") else tuple(_split(text))


def _split(text: str) -> Iterable[str]:
    return (word for word in text.split(",") if word)
