"""What to run and with how much: frozen, checked, seconds and GB inside, human units outside."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from jobs.errors import SpecError, unknown_name
from jobs.health import PreflightLimits, WatchdogLimits, read_limits

DEFAULT_STOP_LEAD_SEC = 120

RESUME_VIA = ("auto", "successor", "requeue")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_GIGABYTES = {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1.0, "T": 1024.0}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KIND = re.compile(r"[a-z][a-z0-9_]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_duration(text: str) -> int:
    """Return the seconds meant by a time in Slurm's or in plain notation.

    Args:
        text: `2-00:00:00`, `1-12`, `12:30:00`, `90:00` (minutes and seconds), `90` (minutes, as
            sbatch reads it), or numbers with units: `90m`, `48h`, `2d`, `1h30m`, `45s`.

    Raises:
        SpecError: if it is none of these, or not above zero.
    """
    seconds = _slurm_seconds(text.strip())
    if seconds is None:
        seconds = _unit_seconds(text.strip().lower())
    if seconds is None or seconds <= 0:
        raise SpecError(f"not a time above zero: {text!r}; write 90m, 48h, 2d or 2-00:00:00")
    return seconds


def _slurm_seconds(text: str) -> int | None:
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, first, second, third = match.groups()
    parts = [int(part) for part in (first, second, third) if part is not None]
    if any(part > 59 for part in parts[1:]):
        return None
    if days is not None:
        hours, minutes, seconds = parts + [0] * (3 - len(parts))
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def _unit_seconds(text: str) -> int | None:
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?\s*[wdhms]\s*)+", text):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([wdhms])", text)
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_memory(text: str) -> float:
    """Return the GB (1024 MB) meant by `64G`, `64GB`, `512M`, `1.5T`; a plain number is GB.

    Raises:
        SpecError: if it is none of these, or not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])I?B?)?", text.strip().upper())
    if match is None or float(match[1]) <= 0:
        raise SpecError(f"not a memory size above zero: {text!r}; write 64G, 512M or 1.5T")
    return float(match[1]) * _GIGABYTES[match[2] or "G"]


@dataclass(frozen=True)
class Resources:
    """What a job asks of the cluster.

    Attributes:
        memory_gb: per node; None leaves it to the site.
        exclude: node names the job must not get.
        stop_lead_sec: how long before the time limit the job is told to stop; 0 chooses.
        watchdog: how long a silence is a hang.
        preflight: what every node is checked against.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    processes_per_node: int = 1
    cpus_per_process: int = 1
    memory_gb: float | None = None
    time_limit_sec: int = 3600
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: tuple[str, ...] = ()
    stop_lead_sec: int = 0
    watchdog: WatchdogLimits = field(default_factory=WatchdogLimits)
    preflight: PreflightLimits = field(default_factory=PreflightLimits)

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node", "cpus_per_process", "time_limit_sec"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gpus_per_node", "stop_lead_sec"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise SpecError(f"memory_gb must be above 0, got {self.memory_gb}")
        if self.stop_lead_sec >= self.time_limit_sec:
            raise SpecError(
                f"the stop lead ({self.stop_lead_sec} s) must be shorter than the time limit "
                f"({self.time_limit_sec} s): the job would be told to stop as it starts"
            )

    @property
    def lead_sec(self) -> int:
        """Seconds before the time limit at which the stop signal comes: at most a third of it."""
        return min(self.stop_lead_sec or DEFAULT_STOP_LEAD_SEC, max(1, self.time_limit_sec // 3))

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes_per_node

    @property
    def cpus_per_node(self) -> int:
        """CPUs of the one srun task that every node gets."""
        return self.processes_per_node * self.cpus_per_process


@dataclass(frozen=True)
class JobSpec:
    """One job: `python -m <module> <arguments>` on every process of the resources.

    Attributes:
        kind: what sort of run it is, first folder below `runs/`: `pretrain`, `narrate`, ...
        name: the run's name, first part of its folder's name.
        env: extra environment of the processes, as (name, value) pairs.
        resume_via: how Slurm gets the next attempt: a successor submitted from inside the job, a
            requeue of the job, or auto: the first of these that works.
        budgets: continuations per cause where not the usual number, as (name, number) pairs.
    """

    kind: str
    name: str
    module: str = "egovl"
    arguments: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    env: tuple[tuple[str, str], ...] = ()
    resume_via: str = "auto"
    budgets: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.resume_via not in RESUME_VIA:
            raise SpecError(unknown_name("way to resume", self.resume_via, RESUME_VIA))
        if not _KIND.fullmatch(self.kind):
            raise SpecError(f"kind {self.kind!r}: lower case letters, digits and _ only")
        if not _NAME.fullmatch(self.name) or len(self.name) > 100:
            raise SpecError(
                f"name {self.name!r}: it names a folder: letters, digits and . _ - only, "
                "a letter or digit first, at most 100"
            )
        for name, _ in self.env:
            if not _ENV_NAME.fullmatch(name):
                raise SpecError(f"not the name of an environment variable: {name!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain json values, for `run.json`."""
        values = asdict(self)
        values["arguments"] = list(self.arguments)
        values["env"] = [list(pair) for pair in self.env]
        values["budgets"] = [list(pair) for pair in self.budgets]
        values["resources"]["exclude"] = list(self.resources.exclude)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JobSpec:
        """Build the spec that `to_json` wrote.

        Raises:
            SpecError: if a key is missing, unknown or out of range.
        """
        given = dict(values)
        _check_keys("job spec", given, cls)
        resources = dict(given.pop("resources", {}))
        _check_keys("resources", resources, Resources)
        resources["exclude"] = tuple(resources.get("exclude", ()))
        watchdog, preflight = resources.get("watchdog"), resources.get("preflight")
        resources["watchdog"] = read_limits(WatchdogLimits, watchdog, "job spec: watchdog")
        resources["preflight"] = read_limits(PreflightLimits, preflight, "job spec: preflight")
        given["arguments"] = tuple(given.get("arguments", ()))
        given["env"] = tuple((name, value) for name, value in given.get("env", ()))
        given["budgets"] = tuple((name, count) for name, count in given.get("budgets", ()))
        try:
            return cls(**given, resources=Resources(**resources))
        except TypeError as error:
            raise SpecError(f"incomplete job spec: {error}") from error

    def signature(self, snapshot_hash: str) -> str:
        """Return 8 hex digits: the same work on the same code has the same ones.

        Resources and how it is continued do not count: a run keeps its folder when it moves to
        other nodes.
        """
        work = [self.kind, self.name, self.module, self.arguments, sorted(self.env), snapshot_hash]
        return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:8]


def _check_keys(what: str, given: Mapping[str, Any], of: type[JobSpec] | type[Resources]) -> None:
    known = [each.name for each in fields(of)]
    for key in given:
        if key not in known:
            raise SpecError(unknown_name(f"key of the {what}", key, known))
