"""How often a run may go on after each cause of a stop. Pure functions over its attempts.

    preempt      without limit: nobody's fault, and every one of them saves
    timeout      100
    node_fail    10, a failed preflight on some of the nodes too
    crash        3, all of them again after 1,000 good steps
    hang         1
    no_progress  2 attempts without a new COMMIT end the run

`no_progress` counts only attempts that had time to make progress: those that reached their time
limit, or ran for half an hour. A crash soon after the start is the crash budget's matter, and an
early preemption nobody's: both are passed over, they neither count nor excuse. A new COMMIT gives
the whole budget back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jobs.errors import ConfigError, unknown_name
from jobs.yaml_file import as_mapping

# A cause that draws on another's budget.
_DRAWS_ON = {"preflight": "node_fail"}

UNLIMITED = -1


@dataclass(frozen=True)
class Budgets:
    """How many continuations each cause has; -1 is without limit.

    Attributes:
        good_steps: committed steps after which crashes are forgotten.
        progress_sec: how long an attempt must have run for a missing COMMIT to count.
    """

    preempt: int = UNLIMITED
    timeout: int = 100
    node_fail: int = 10
    crash: int = 3
    hang: int = 1
    no_progress: int = 2
    good_steps: int = 1000
    progress_sec: int = 1800


@dataclass(frozen=True)
class Ended:
    """What counts of one attempt that is over.

    Attributes:
        cause: why it ended.
        commit_before: the newest COMMIT as it began; None if there was none.
        commit_after: the newest COMMIT as it ended.
        seconds: how long it ran.
    """

    cause: str
    commit_before: int | None = None
    commit_after: int | None = None
    seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        """Steps that it has committed."""
        return max(0, (self.commit_after or 0) - (self.commit_before or 0))


def make_budgets(values: Iterable[tuple[str, int]]) -> Budgets:
    """Return the budgets with these values put in.

    Raises:
        ConfigError: if a name is unknown or a number is below -1.
    """
    given = dict(values)
    known = [each.name for each in fields(Budgets)]
    for name, number in given.items():
        if name not in known:
            raise ConfigError(unknown_name("budget", name, known))
        if number < UNLIMITED:
            raise ConfigError(f"budget {name}: {number}; write 0 or more, -1 for no limit")
    return Budgets(**given)


def read_budgets(values: Any, where: str) -> tuple[tuple[str, int], ...]:
    """Return the `budgets:` of a yaml file, checked; a number may be -1 or `unlimited`.

    Raises:
        ConfigError: if a name is unknown or a value no such number.
    """
    pairs: list[tuple[str, int]] = []
    for name, value in as_mapping(values, f"{where}: budgets").items():
        text = str(UNLIMITED if value in ("unlimited", None) else value)
        if not text.removeprefix("-").isdecimal():
            raise ConfigError(f"{where}: budgets: {name}: {value!r} is no number or `unlimited`")
        pairs.append((name, int(text)))
    try:
        make_budgets(pairs)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return tuple(pairs)


def spent(budgets: Budgets, history: Sequence[Ended]) -> dict[str, int]:
    """Return how many attempts of `history`, oldest first, count against each budget."""
    used = dict.fromkeys(_names(), 0)
    good_steps = 0
    for attempt in history:
        good_steps += attempt.num_steps
        if good_steps >= budgets.good_steps:
            used["crash"] = 0
        cause = _DRAWS_ON.get(attempt.cause, attempt.cause)
        if cause in used:
            used[cause] += 1
        if cause == "crash":
            good_steps = 0
        if attempt.num_steps:
            used["no_progress"] = 0
        elif attempt.cause == "timeout" or attempt.seconds >= budgets.progress_sec:
            used["no_progress"] += 1
    return used


def left(budgets: Budgets, history: Sequence[Ended]) -> dict[str, int | None]:
    """Return what each budget has left, for `state.json`; None is without limit."""
    used = spent(budgets, history)
    limits = _limits(budgets)
    return {
        name: None if limits[name] == UNLIMITED else max(0, limits[name] - count)
        for name, count in used.items()
    }


def exhausted(budgets: Budgets, history: Sequence[Ended]) -> str | None:
    """Return why a run may not go on after the last attempt of `history`; None if it may."""
    used, limits = spent(budgets, history), _limits(budgets)
    last = history[-1]
    cause = _DRAWS_ON.get(last.cause, last.cause)
    limit = limits.get(cause, UNLIMITED)
    if limit != UNLIMITED and used.get(cause, 0) > limit:
        many = f"{used[cause]} attempts ended by {cause}, {limit} may be continued"
        recovery = f", all again after {budgets.good_steps} good steps" if cause == "crash" else ""
        return f"the budget for {cause} is spent: {many}{recovery}"
    if limits["no_progress"] not in (UNLIMITED, 0) and used["no_progress"] >= limits["no_progress"]:
        return (
            f"no progress: {used['no_progress']} attempts that had time for it made no new COMMIT "
            f"(the last is {last.commit_after}); save more often, or ask for a longer time limit"
        )
    return None


def _limits(budgets: Budgets) -> Mapping[str, int]:
    return {name: getattr(budgets, name) for name in _names()}


def _names() -> tuple[str, ...]:
    return ("preempt", "timeout", "node_fail", "crash", "hang", "no_progress")
