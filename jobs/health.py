"""How long a silence is a hang, and what a node must offer before it may train.

Both come from the cluster profile (`watchdog:` and `preflight:`), travel with the resources of a
job, and are `off` or a mapping of the fields below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from jobs.errors import SpecError, unknown_name


@dataclass(frozen=True)
class WatchdogLimits:
    """Seconds without a sign of life after which a rank counts as hung.

    Attributes:
        step_min_sec: of a step; where steps are long, eight times their median instead.
        start_sec: until the first steps are done: imports, data, compilation.
        save_sec: of a checkpoint.
        eval_sec: of one batch of an evaluation, or of its scores.
        native_sec: what py-spy or gdb, where a node has one, may take for the native stacks of a
            hung job; 0 leaves them out.
    """

    is_on: bool = True
    step_min_sec: float = 600.0
    start_sec: float = 1800.0
    save_sec: float = 1800.0
    eval_sec: float = 1800.0
    native_sec: float = 20.0

    def __post_init__(self) -> None:
        _refuse_below(self, 0.1, but=("native_sec",))


@dataclass(frozen=True)
class PreflightLimits:
    """What every node is checked against: by its agent, and by its ranks before they begin.

    Attributes:
        free_gb: on the disk of the run folder; 0 asks for room for one more checkpoint.
        clock_skew_sec: between the clocks of two nodes.
        visible_sec: until one node sees a file that another has written.
        foreign_gpu_gb: memory of a GPU that somebody else holds.
        node_gb_per_sec: least bandwidth of an all-reduce (nccl-tests' busbw) within a node; 0 asks
            for none, it is measured only.
        link_gb_per_sec: the same between nodes.
    """

    is_on: bool = True
    free_gb: float = 0.0
    clock_skew_sec: float = 5.0
    visible_sec: float = 10.0
    foreign_gpu_gb: float = 1.0
    node_gb_per_sec: float = 0.0
    link_gb_per_sec: float = 0.0

    def __post_init__(self) -> None:
        _refuse_below(self, 0.0)


HealthLimits = TypeVar("HealthLimits", WatchdogLimits, PreflightLimits)


def read_limits(kind: type[HealthLimits], value: Any, where: str) -> HealthLimits:
    """Return the limits that a profile or a spec states.

    Args:
        kind: which of the two.
        value: None, `on`, `off`, or a mapping of field names to numbers, as text or not.
        where: leads the message: the file and key, or the spec.

    Raises:
        SpecError: if it is none of these, or a number is out of range.
    """
    words = {"": True, "none": True, "on": True, "true": True, "off": False, "false": False}
    if not isinstance(value, Mapping):
        text = str(value).lower()
        if text not in words:
            raise SpecError(f"{where}: {value!r}: write off, or `name: number` lines")
        return kind(is_on=words[text])
    known = {each.name: each.type for each in fields(kind)}
    given: dict[str, Any] = {}
    for key, item in cast("Mapping[str, Any]", value).items():
        if key not in known:
            raise SpecError(f"{where}: " + unknown_name("limit", key, known))
        try:
            is_flag = known[key] == "bool"
            given[key] = words[str(item).lower()] if is_flag else float(item)
        except (KeyError, TypeError, ValueError):
            wanted = "on or off" if known[key] == "bool" else "a number"
            raise SpecError(f"{where}: {key}: {item!r} is not {wanted}") from None
    try:
        return kind(**given)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _refuse_below(
    limits: WatchdogLimits | PreflightLimits, least: float, but: tuple[str, ...] = ()
) -> None:
    for each in fields(limits):
        value, lowest = getattr(limits, each.name), 0.0 if each.name in but else least
        if not isinstance(value, bool) and not lowest <= value < float("inf"):
            raise SpecError(f"{each.name} is {value}: must be {lowest:g} or more")
