"""How an attempt ended, written down: `outcome.json`, and what its run has left in `state.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.blame import excluded_nodes
from jobs.budgets import Budgets, Ended, left
from jobs.node import NodeFacts
from jobs.run_folder import AttemptFolder, RunFolder, read_json, write_json_atomic
from jobs.stop import Stop

# What takes an attempt because somebody asked for it.
_PEOPLE = ("launch", "resume")

_TAIL = 1 << 16  # bytes of metrics.jsonl that hold an attempt's last step


@dataclass(frozen=True)
class Decision:
    """What to do after an attempt.

    Attributes:
        state: the run's state from now on, as in `state.json`.
        cause: why the attempt ended.
        goes_on: whether this side has to queue the next attempt.
    """

    state: str
    cause: str
    goes_on: bool = False
    reason: str = ""


def past_attempts(run: RunFolder, number: int) -> list[Ended]:
    """Return what counts of the attempts before `number`, oldest first.

    That a person launched or resumed the run gives it whole budgets again. An attempt that left no
    outcome was killed before it could; the claim after it has its last COMMIT.
    """
    numbers = [each for each in run.attempt_numbers() if each < number]
    begun = [each for each in (*numbers, number) if _claimed_by(run, each) in _PEOPLE]
    return [ended_attempt(run, each) for each in numbers if each >= max(begun, default=0)]


def ended_attempt(run: RunFolder, number: int, cause: str | None = None) -> Ended:
    """Return what counts of one attempt; `cause` for one that is being concluded."""
    attempt = run.attempt(number)
    claim, outcome = read_json(attempt.claim_json) or {}, read_json(attempt.outcome_json) or {}
    if cause is not None:
        after, ended = run.last_commit_step(), time.time()
    elif outcome:
        after, ended = outcome.get("commit"), outcome.get("ended")
    else:
        following = read_json(run.attempt(number + 1).claim_json) or {}
        after, ended = following.get("commit"), following.get("time")
    started = _started(attempt)
    silent = "crash" if attempt.nodes.exists() else "never started"
    return Ended(
        cause=cause or str(outcome.get("cause", silent)),
        commit_before=claim.get("commit"),
        commit_after=after,
        seconds=max(0.0, float(ended) - started) if ended and started else 0.0,
    )


def blamed_nodes(run: RunFolder) -> list[list[str]]:
    """Return the nodes that each attempt blames, oldest first."""
    outcomes = (read_json(run.attempt(each).outcome_json) or {} for each in run.attempt_numbers())
    return [[str(name) for name in outcome.get("blamed") or ()] for outcome in outcomes if outcome]


def next_exclusions(run: RunFolder) -> list[str]:
    """Return the nodes that the run's next attempt must not get."""
    return excluded_nodes(blamed_nodes(run))


def write_outcome(
    run: RunFolder,
    number: int,
    node: NodeFacts,
    decision: Decision,
    *,
    stop: Stop | None = None,
    blamed: Sequence[str] = (),
    budgets: Budgets | None = None,
) -> None:
    """Write `outcome.json` of an attempt and the run's `state.json`.

    Args:
        run: the run.
        number: the attempt.
        node: where it is written, for job id and executor.
        decision: what follows.
        stop: the request to stop; None if there was none.
        blamed: names of nodes that failed under it.
        budgets: of the run.
    """
    attempt = run.attempt(number)
    facts: dict[str, Any] = {"cause": decision.cause, "reason": decision.reason}
    if stop is not None:
        facts |= {"deadline": stop.deadline, "source": stop.source}
    now = {"commit": run.last_commit_step(), "ended": time.time(), "job_id": node.job_id}
    outcome = {"state": decision.state, **facts, **_steps(run, attempt), **now}
    outcome |= {"started": _started(attempt), "nodes": agent_names(attempt), "blamed": list(blamed)}
    write_json_atomic(attempt.outcome_json, outcome)
    where = {"attempt": number, "job_id": node.job_id, "executor": node.executor}
    ended = [*past_attempts(run, number), ended_attempt(run, number)]
    more = {
        "nodes": outcome["nodes"],
        "budgets": left(budgets or Budgets(), ended),
        "excluded": next_exclusions(run),
    }
    run.write_state(decision.state, **where, **facts, **more)


def agent_names(attempt: AttemptFolder) -> list[str]:
    """Return the names of the nodes whose agents came up, in their order."""
    return [str(agent.get("name")) for agent in read_agents(attempt)]


def read_agents(attempt: AttemptFolder) -> list[dict[str, Any]]:
    """Return what the agents of an attempt say about themselves, by node index."""
    paths = attempt.nodes.glob("[0-9]*.json")
    ordered = sorted(paths, key=lambda path: int(path.stem) if path.stem.isdecimal() else -1)
    return [facts for path in ordered if (facts := read_json(path)) is not None]


def _claimed_by(run: RunFolder, number: int) -> str:
    return str((read_json(run.attempt(number).claim_json) or {}).get("by"))


def _started(attempt: AttemptFolder) -> float | None:
    first = read_json(attempt.node_json(0)) or {}
    return first.get("started")


def _steps(run: RunFolder, attempt: AttemptFolder) -> dict[str, int | None]:
    """The steps of an attempt: by its ranks' last words, else by its last line of metrics."""
    words = [read_json(path) or {} for path in attempt.exits.glob("[0-9]*.json")]
    last = [each["step"] for each in words if isinstance(each.get("step"), int)]
    saved = [each["saved_step"] for each in words if isinstance(each.get("saved_step"), int)]
    last += _logged_steps(run, attempt.number)
    before = (read_json(attempt.claim_json) or {}).get("commit")
    first = (before or 0) + 1
    ran = bool(last) and max(last) >= first
    return {
        "step_first": first if ran else None,
        "step_last": max(last) if ran else None,
        "saved_step": max(saved, default=run.last_commit_step()),
    }


def _logged_steps(run: RunFolder, number: int) -> list[int]:
    try:
        with run.metrics_jsonl.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:  # cut at either end
            continue
        if record.get("attempt") == number and "step" in record:
            found.append(int(record["step"]))
    return found
