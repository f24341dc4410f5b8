"""A cluster's facts: `configs/clusters/<name>.yaml` -> `Cluster` -> submitit's Slurm parameters.

`load_cluster` reads, `build_resources` joins what the user asked with what the profile says, and
`slurm_parameters` is a pure function to the keywords of `submitit.SlurmExecutor`'s
`update_parameters` (submitit 1.5.4, `_make_sbatch_string`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from jobs.budgets import read_budgets
from jobs.errors import ConfigError, SpecError, unknown_name
from jobs.health import HealthLimits, PreflightLimits, WatchdogLimits, read_limits
from jobs.spec import JobSpec, Resources, parse_duration, parse_memory
from jobs.yaml_file import as_mapping, as_text, as_words, is_empty, read_yaml, refuse_unknown

EXECUTORS = ("slurm", "local", "debug")

# Profiles named so show how one is written; they serve until there is one of the user's own.
EXAMPLE = "example_"

# Set here for every job, or keys of their own: an extra option must not override them.
OWNED_FLAGS = (
    *("account", "array", "comment", "constraint", "cpus-per-task", "dependency", "error"),
    *("exclude", "gpus-per-node", "job-name", "mem", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal", "time"),
)


@dataclass(frozen=True)
class Limits:
    """What a node of a partition has and what a job there gets when nobody says otherwise."""

    gpus_per_node: int = 0
    gpu_type: str | None = None
    processes_per_node: int | None = None
    cpus_per_gpu: int | None = None
    cpus_per_process: int = 1
    memory_per_gpu_gb: float | None = None
    memory_gb: float | None = None
    time_limit_sec: int = 86400
    stop_lead_sec: int = 0
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None


@dataclass(frozen=True)
class Cluster:
    """One cluster profile.

    Attributes:
        partition: the partition of jobs that name none; None leaves it to Slurm.
        partitions: by name, the limits with that partition's own values put in.
        preamble: shell lines before srun, the preamble files read in.
        sbatch: extra sbatch options, `True` for one without value.
        exclude: nodes that no job may get.
        slurm_cluster: Slurm's ClusterName, by which `cluster: auto` knows the profile.
        resume_via: auto, successor or requeue; None leaves it to the defaults.
        budgets: continuations per cause where not the usual number, as (name, number) pairs.
        watchdog: how long a silence of a job here is a hang.
        preflight: what the nodes of a job here are checked against.
    """

    name: str
    executor: str = "slurm"
    partition: str | None = None
    limits: Limits = field(default_factory=Limits)
    partitions: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    preamble: tuple[str, ...] = ()
    srun_arguments: tuple[str, ...] = ()
    sbatch: Mapping[str, str | bool] = field(default_factory=dict[str, str | bool])
    exclude: tuple[str, ...] = ()
    slurm_cluster: str | None = None
    resume_via: str | None = None
    budgets: tuple[tuple[str, int], ...] = ()
    watchdog: WatchdogLimits = field(default_factory=WatchdogLimits)
    preflight: PreflightLimits = field(default_factory=PreflightLimits)

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain json values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cluster:
        """Build the profile that `to_json` wrote."""
        given = {name: _frozen(value) for name, value in values.items()}
        given["limits"] = Limits(**given["limits"])
        given["partitions"] = {name: Limits(**own) for name, own in given["partitions"].items()}
        given["watchdog"] = WatchdogLimits(**given["watchdog"])
        given["preflight"] = PreflightLimits(**given["preflight"])
        return cls(**given)

    def limits_of(self, partition: str | None) -> Limits:
        """Return the limits of a partition; one the profile does not list has the cluster's."""
        return self.partitions.get(partition or "", self.limits)


def _frozen(value: Any) -> Any:
    """Return the lists that json made of tuples as tuples again."""
    if not isinstance(value, list):
        return value
    return tuple(_frozen(each) for each in cast("list[Any]", value))


def list_clusters(configs: Path) -> list[str]:
    """Return the names of the profiles in `<configs>/clusters`."""
    return sorted(path.stem for path in (configs / "clusters").glob("*.yaml"))


def load_cluster(configs: Path, name: str) -> Cluster:
    """Read `<configs>/clusters/<name>.yaml`.

    Preamble files are looked up in `slurm_templates/` beside `configs`.

    Raises:
        ConfigError: if there is no such profile, or a key or value of it makes no sense.
    """
    path = configs / "clusters" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            unknown_name(f"cluster (files of {path.parent})", name, list_clusters(configs))
        )
    values = read_yaml(path)
    refuse_unknown(values, [*_LIMIT_KEYS, *_CLUSTER_KEYS], str(path))
    limits = replace(Limits(), **_read_limits(values, str(path)))
    executor = as_text(values.get("executor")) or "slurm"
    if executor not in EXECUTORS:
        raise ConfigError(f"{path}: " + unknown_name("executor", executor, EXECUTORS))
    return Cluster(
        name=name,
        executor=executor,
        partition=as_text(values.get("partition")),
        limits=limits,
        partitions=_read_partitions(values.get("partitions"), limits, path),
        preamble=_read_preamble(values.get("preamble"), configs.parent / "slurm_templates", path),
        srun_arguments=_read_srun(values.get("srun_arguments")),
        sbatch=_read_sbatch(values.get("sbatch"), path),
        exclude=as_words(values.get("exclude")),
        slurm_cluster=as_text(values.get("slurm_cluster")),
        resume_via=as_text(values.get("resume_via")),
        budgets=read_budgets(values.get("budgets"), str(path)),
        watchdog=_read_health(WatchdogLimits, values, "watchdog", path),
        preflight=_read_health(PreflightLimits, values, "preflight", path),
    )


def resolve_cluster_name(
    asked: str | None, configs: Path, slurm_cluster: str | None, partition: str | None = None
) -> str:
    """Return the profile to use for `asked`, where `auto` or None means: look at the machine.

    Without a Slurm that answers this is `local`. With one it is the profile that names this Slurm,
    else the only one of the user's own, else the only example that has the partition.

    Args:
        asked: a profile's name, `auto` or None.
        configs: the project's configs.
        slurm_cluster: ClusterName of the Slurm that answers; None where none does.
        partition: that the job asks for.

    Raises:
        ConfigError: if several profiles could be meant, or none is there.
    """
    if asked is not None and asked != "auto":
        return asked
    if slurm_cluster is None:
        return "local"
    profiles = [load_cluster(configs, name) for name in list_clusters(configs)]
    slurm = [each for each in profiles if each.executor == "slurm"]
    own = [each for each in slurm if not each.name.startswith(EXAMPLE)]
    examples = [each for each in slurm if each.name.startswith(EXAMPLE)]
    fitting = [
        [each for each in slurm if each.slurm_cluster == slurm_cluster],
        [each for each in own if each.slurm_cluster is None],
        [each for each in examples if partition in each.partitions] if not own else [],
    ]
    for candidates in fitting:
        if len(candidates) == 1:
            return candidates[0].name
    known = ", ".join(each.name for each in slurm) or "none"
    raise ConfigError(
        f"no profile in {configs / 'clusters'} is meant for cluster {slurm_cluster} (found: "
        f"{known}); python -m jobs doctor --write makes one, --cluster NAME chooses one"
    )


def build_resources(cluster: Cluster, asked: Mapping[str, Any]) -> Resources:
    """Join what the user asked for with what the profile says for the partition.

    Args:
        cluster: the profile.
        asked: field names of `Resources` to values; None means not asked. Times and memory may be
            text in human units, `exclude` a list or text with commas.

    Raises:
        SpecError: if a name is unknown or a value is out of range.
    """
    known = [each.name for each in fields(Resources)]
    for key in asked:
        if key not in known:
            raise SpecError(unknown_name("resource", key, known))
    given = {key: value for key, value in asked.items() if value is not None}
    for key in ("time_limit_sec", "stop_lead_sec"):
        if isinstance(given.get(key), str):
            given[key] = parse_duration(given[key])
    if isinstance(given.get("memory_gb"), str):
        given["memory_gb"] = parse_memory(given["memory_gb"])
    given["exclude"] = (*cluster.exclude, *as_words(given.get("exclude")))
    given.setdefault("watchdog", cluster.watchdog)
    given.setdefault("preflight", cluster.preflight)
    partition = given.setdefault("partition", cluster.partition)
    return Resources(**{**_node_share(cluster.limits_of(partition), given), **given})


def _node_share(limits: Limits, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a partition's defaults, CPUs and memory in step with the GPUs of this job."""
    gpus = given.get("gpus_per_node", limits.gpus_per_node)
    processes = given.get("processes_per_node", limits.processes_per_node or gpus or 1)
    cpus, memory = limits.cpus_per_process, limits.memory_gb
    if gpus and limits.cpus_per_gpu is not None:
        cpus = max(1, limits.cpus_per_gpu * gpus // max(1, processes))
    if gpus and limits.memory_per_gpu_gb is not None:
        memory = limits.memory_per_gpu_gb * gpus
    return {
        "gpus_per_node": gpus,
        "processes_per_node": processes,
        "cpus_per_process": cpus,
        "memory_gb": memory,
        "time_limit_sec": limits.time_limit_sec,
        "stop_lead_sec": limits.stop_lead_sec,
        "account": limits.account,
        "qos": limits.qos,
        "constraint": limits.constraint,
    }


def slurm_parameters(spec: JobSpec, cluster: Cluster) -> dict[str, Any]:
    """Return the keywords for `submitit.SlurmExecutor(...).update_parameters`.

    One srun task per node: the node agent. What it starts is `jobs.command`'s matter. The caller
    adds what belongs to one submission: `comment`, `dependency`, `teardown`.
    """
    ask = spec.resources
    limits = cluster.limits_of(ask.partition)
    extra: dict[str, str | bool] = {
        **cluster.sbatch,
        "requeue": True,
        # submitit takes the signal's name from its environment; the agent listens to this one
        "signal": f"USR2@{ask.lead_sec}",
    }
    srun = [
        *cluster.srun_arguments,
        "--kill-on-bad-exit=1",
        # since Slurm 22.05 srun no longer takes it from sbatch: one core for all loaders
        f"--cpus-per-task={ask.cpus_per_node}",
    ]
    parameters: dict[str, Any] = {
        "job_name": spec.name,
        "partition": ask.partition,
        "time": math.ceil(ask.time_limit_sec / 60),
        "nodes": ask.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": ask.cpus_per_node,
        "mem": None if ask.memory_gb is None else f"{math.ceil(ask.memory_gb * 1024)}M",
        "account": ask.account,
        "qos": ask.qos,
        "constraint": ask.constraint,
        "exclude": ",".join(ask.exclude) or None,
        "signal_delay_s": ask.lead_sec,
        "setup": list(cluster.preamble) or None,
        "srun_args": srun,
        "stderr_to_stdout": True,
        "additional_parameters": extra,
    }
    if ask.gpus_per_node:
        count = str(ask.gpus_per_node)
        typed = f"{limits.gpu_type}:{count}" if limits.gpu_type else ask.gpus_per_node
        parameters["gpus_per_node"] = typed
    parameters = {key: value for key, value in parameters.items() if value is not None}
    # submitit's default would ask for a wckey, which sites that check them refuse
    parameters["wckey"] = None
    return parameters


def _positive(value: Any) -> int:
    number = _count(value)
    if number < 1:
        raise SpecError(f"must be at least 1, got {number}")
    return number


def _count(value: Any) -> int:
    if not str(value).isdecimal():
        raise SpecError(f"not a whole number: {value!r}")
    return int(value)


# yaml key -> (field of Limits, reader)
_LIMIT_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "gpus_per_node": ("gpus_per_node", _count),
    "gpu_type": ("gpu_type", as_text),
    "processes_per_node": ("processes_per_node", _positive),
    "cpus_per_gpu": ("cpus_per_gpu", _positive),
    "cpus_per_process": ("cpus_per_process", _positive),
    "memory_per_gpu_gb": ("memory_per_gpu_gb", parse_memory),
    "memory_gb": ("memory_gb", parse_memory),
    "time_limit": ("time_limit_sec", parse_duration),
    "stop_lead": ("stop_lead_sec", parse_duration),
    "account": ("account", as_text),
    "qos": ("qos", as_text),
    "constraint": ("constraint", as_text),
}
_CLUSTER_KEYS = (
    "executor",
    "partition",
    "partitions",
    "preamble",
    "srun_arguments",
    "sbatch",
    "exclude",
    "slurm_cluster",
    "resume_via",
    "budgets",
    "watchdog",
    "preflight",
)


def _read_limits(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for key, (name, read) in _LIMIT_KEYS.items():
        if is_empty(values.get(key)):
            continue
        try:
            limits[name] = read(values[key])
        except (SpecError, ConfigError) as error:
            raise ConfigError(f"{where}: {key}: {error}") from error
    return limits


def _read_health(
    kind: type[HealthLimits], values: Mapping[str, Any], key: str, path: Path
) -> HealthLimits:
    try:
        return read_limits(kind, values.get(key), f"{path}: {key}")
    except SpecError as error:
        raise ConfigError(str(error)) from error


def _read_partitions(values: Any, limits: Limits, path: Path) -> dict[str, Limits]:
    partitions: dict[str, Limits] = {}
    for name, value in as_mapping(values, f"{path}: partitions").items():
        where = f"{path}: partition {name}"
        own = as_mapping(value, where)
        refuse_unknown(own, _LIMIT_KEYS, where)
        partitions[name] = replace(limits, **_read_limits(own, where))
    return partitions


def _read_preamble(values: Any, templates: Path, path: Path) -> tuple[str, ...]:
    if is_empty(values):
        return ()
    lines: list[str] = []
    for entry in [values] if isinstance(values, str) else values:
        if not isinstance(entry, str):
            raise ConfigError(f"{path}: preamble: expected lines or file names, found {entry!r}")
        if not entry.endswith(".sh") or len(entry.split()) != 1:
            lines.append(entry)
            continue
        file = templates / entry
        if not file.is_file():
            known = (each.relative_to(templates).as_posix() for each in templates.rglob("*.sh"))
            raise ConfigError(f"{path}: " + unknown_name(f"preamble in {templates}", entry, known))
        lines += file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return tuple(lines)


def _read_srun(value: Any) -> tuple[str, ...]:
    return as_words(shlex.split(value) if isinstance(value, str) and not is_empty(value) else value)


def _read_sbatch(values: Any, path: Path) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for key, value in as_mapping(values, f"{path}: sbatch").items():
        name = key.replace("_", "-").lstrip("-")
        if name in OWNED_FLAGS:
            raise ConfigError(f"{path}: sbatch: {key} is set elsewhere for every job")
        text = as_text(value)
        if text != "false":
            options[name] = True if text in (None, "true") else text
    return options
