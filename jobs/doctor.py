"""What a site supports, in words, and the cluster profile that follows from it.

`examine` turns the facts of `jobs.site` into findings; `profile_text` into the yaml of
`configs/clusters/`. Both are pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from jobs.site import Node, Partition, Site, is_mig

# A checkpoint of a large model on a busy disk takes about this long.
SHORT_GRACE_SEC = 60
# slurm.conf's default of AuthInfo=cred_expire: how long a requeued job waits.
DEFAULT_REQUEUE_WAIT_SEC = 120
# What the disk of one machine is formatted with; its files are not seen by the nodes.
LOCAL_DISKS = ("ext4", "ext3", "xfs", "btrfs", "tmpfs", "overlay", "zfs")


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: ok, note (works, but know it) or problem (mend it first).
        topic: one word.
        text: what was seen and what follows.
    """

    level: str
    topic: str
    text: str

    def to_json(self) -> dict[str, str]:
        """Return the finding for `--json`."""
        return asdict(self)


def examine(site: Site, runs_disk: str = "") -> list[Finding]:
    """Return what a user of this site should know.

    Args:
        site: Slurm's facts.
        runs_disk: file system type of the folder of the runs; empty if unknown.
    """
    findings = [_slurm(site), _signals(site), *_preemption(site), _time_limits(site)]
    findings += [_continuation(site), _arrays(site), _accounting(site), *_nodes(site)]
    if plugins := site.setting("JobSubmitPlugins"):
        text = f"{plugins} may change or refuse jobs as they are submitted; Slurm's words are shown"
        findings.append(Finding("note", "plugins", text))
    if runs_disk:
        findings.append(_disk(runs_disk))
    return findings


def _slurm(site: Site) -> Finding:
    version, name = site.setting("SLURM_VERSION"), site.setting("ClusterName")
    return Finding("ok", "slurm", f"{version}, cluster {name}, answers in {site.answer_ms:.0f} ms")


def _signals(site: Site) -> Finding:
    tracker = site.setting("ProctrackType").removeprefix("proctrack/")
    if tracker == "cgroup":
        text = "cgroup: a signal reaches the node agent alone, which tells the ranks"
        return Finding("ok", "signals", text)
    if tracker == "linuxproc":
        text = "linuxproc: a signal reaches every process of a step; loaders are shielded from it"
        return Finding("ok", "signals", text)
    text = f"process tracker {tracker or 'unknown'} is not one that we tested (cgroup, linuxproc)"
    return Finding("note", "signals", text)


def _preemption(site: Site) -> Iterator[Finding]:
    kind = site.setting("PreemptType")
    if kind in ("", "preempt/none"):
        yield Finding("ok", "preemption", "none at this site")
        return
    yield Finding("ok", "preemption", f"{kind}; the node agents ask Slurm for cause and deadline")
    wait = _number(site.setting("KillWait"), 30)
    top = max((each.tier for each in site.partitions), default=0)
    for partition in site.partitions:
        mode = partition.preempt_mode.split(",")[-1]
        if mode == "OFF" or (kind == "preempt/partition_prio" and partition.tier == top):
            continue
        head = f"partition {partition.name}: {mode}, {partition.grace_sec} s of grace"
        if mode == "SUSPEND":
            yield Finding("note", "preemption", f"{head}: jobs are frozen, not ended")
        elif partition.grace_sec + wait < SHORT_GRACE_SEC:
            text = f"{head} and {wait} s to the kill: save often (trainer.save_every_minutes)"
            yield Finding("note", "preemption", text)
        else:
            yield Finding("ok", "preemption", f"{head}: time to save")


def _time_limits(site: Site) -> Finding:
    limits = [
        f"{each.name} {spell_time(each.max_time_sec)}" for each in site.partitions if each.is_up
    ]
    return Finding("ok", "limits", "longest time: " + ", ".join(limits or ["no partition is up"]))


def _continuation(site: Site) -> Finding:
    wait = _requeue_wait(site)
    closed = [each.name for each in site.partitions if not each.submits_from_nodes]
    if closed:
        text = (
            f"jobs in {', '.join(closed)} may not submit from their nodes: requeued instead, "
            f"which waits about {wait} s"
        )
        return Finding("note", "continuation", text)
    text = f"successors start at once; a requeued job would wait about {wait} s"
    if site.setting("JobRequeue") == "0":
        text += "; JobRequeue=0 is overruled by --requeue"
    return Finding("ok", "continuation", text)


def _requeue_wait(site: Site) -> int:
    match = re.search(r"cred_expire=(\d+)", site.setting("AuthInfo"))
    return int(match[1]) if match else DEFAULT_REQUEUE_WAIT_SEC


def _arrays(site: Site) -> Finding:
    size, most = _number(site.setting("MaxArraySize"), 1001), site.setting("MaxJobCount")
    return Finding("ok", "arrays", f"{size - 1} members each, larger ones are split; {most} jobs")


def _accounting(site: Site) -> Finding:
    if site.setting("AccountingStorageType") in ("", "accounting_storage/none"):
        return Finding("ok", "accounting", "none: states come from squeue and the run folders")
    return Finding("ok", "accounting", "sacct is asked for jobs that left the queue unmarked")


def _nodes(site: Site) -> Iterator[Finding]:
    kinds = Counter(_describe(node) for node in site.nodes)
    for text, count in kinds.most_common():
        yield Finding("ok", "nodes", f"{count} x {text}")
    out = [node.name for node in site.nodes if not node.is_usable]
    if out and len(out) == len(site.nodes):
        yield Finding("problem", "nodes", "no node takes jobs now: ask the administrators")
    elif out:
        yield Finding("note", "nodes", f"{len(out)} take no jobs now: {', '.join(out[:8])}")
    if any(is_mig(kind) for node in site.nodes for kind in node.gpus):
        text = "MIG slices: one process each, no NCCL between slices; see example_mig.yaml"
        yield Finding("note", "nodes", text)


def _describe(node: Node) -> str:
    gpus = " + ".join(f"{count} {kind or 'GPUs'}" for kind, count in node.gpus.items()) or "no GPU"
    features = f", features {','.join(node.features)}" if node.features else ""
    return f"{gpus}, {node.cpus} CPUs, {node.memory_mb // 1024} GB{features}"


def _disk(kind: str) -> Finding:
    if kind in LOCAL_DISKS:
        text = f"the runs are on a local disk ({kind}): set `runs:` to one that all nodes see"
        return Finding("problem", "disk", text)
    return Finding("ok", "disk", f"the runs are on {kind}")


def _number(text: str, default: int) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else default


def spell_time(seconds: int | None) -> str:
    """Return a time limit as Slurm writes it; `none` without one."""
    if seconds is None:
        return "none"
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


# ---- the profile

# Without a limit of its own a partition gets this, so that jobs end one day.
_DEFAULT_TIME_SEC = 2 * 86400


def profile_text(site: Site, *, has_infiniband: bool) -> str:
    """Return a cluster profile for this site, to be read over by a person.

    Args:
        site: Slurm's facts.
        has_infiniband: whether this machine has such cards; the nodes then have them, too.
    """
    usable = [each for each in site.partitions if each.is_up and site.nodes_of(each.name)]
    main = _main_partition(site, usable)
    name = site.setting("ClusterName")
    lines = [
        f"# Cluster {name}, as Slurm described it. Every key: see example_a100.yaml.",
        "",
        "executor: slurm",
        f"slurm_cluster: {name}",
    ]
    if main is None:
        return "\n".join([*lines, ""])
    values = _partition_values(main, site.nodes_of(main.name))
    lines += [f"{key}: {value}" for key, value in values.items()]
    lines += ["", f"partition: {main.name}", "partitions:"]
    for each in usable:
        own = _partition_values(each, site.nodes_of(each.name))
        differs = {key: value for key, value in own.items() if values.get(key) != value}
        # a key that only the main partition has would otherwise be taken from there
        if "gpu_type" in values and "gpu_type" not in own:
            differs["gpu_type"] = ""
        lines.append(f"  {each.name}:" + ("" if differs else " {}"))
        lines += [f"    {key}: {value}".rstrip() for key, value in differs.items()]
    if any(node.num_gpus for node in site.nodes):
        fabric = "infiniband" if has_infiniband else "ethernet"
        lines += ["", "preamble:", f"  - preambles/nccl_{fabric}.sh"]
    return "\n".join([*lines, ""])


def _main_partition(site: Site, partitions: Sequence[Partition]) -> Partition | None:
    """Return the default partition where it has GPUs, else the one with most of them."""

    def rank(each: Partition) -> tuple[bool, int, bool]:
        gpus = sum(node.num_gpus for node in site.nodes_of(each.name))
        return (each.is_default and gpus > 0, gpus, each.is_default)

    return max(partitions, key=rank, default=None)


def _partition_values(partition: Partition, nodes: Sequence[Node]) -> dict[str, int | str]:
    """Return what every node of a partition can give: the least of each."""
    limit = partition.max_time_sec
    chosen = min(limit, _DEFAULT_TIME_SEC) if limit else _DEFAULT_TIME_SEC
    values: dict[str, int | str] = {"time_limit": spell_time(chosen)}
    with_gpus = [node for node in nodes if node.num_gpus]
    if not with_gpus:
        values |= {"gpus_per_node": 0, "cpus_per_process": min(node.cpus for node in nodes)}
        values["memory_gb"] = max(1, min(_gigabytes(node) for node in nodes))
        return values
    kinds = Counter(kind for node in with_gpus for kind in node.gpus)
    kind = kinds.most_common(1)[0][0]
    chosen_nodes = [node for node in with_gpus if kind in node.gpus]
    gpus = min(node.gpus[kind] for node in chosen_nodes)
    values["gpus_per_node"] = gpus
    if len(kinds) > 1 or is_mig(kind):
        values["gpu_type"] = kind
    values["cpus_per_gpu"] = max(1, min(node.cpus // node.num_gpus for node in chosen_nodes))
    memory = min(_gigabytes(node) // node.num_gpus for node in chosen_nodes)
    values["memory_per_gpu_gb"] = max(1, memory)
    return values


def _gigabytes(node: Node) -> int:
    return node.memory_mb // 1024
