"""Everything about one run for `status RUN`: its attempts, what they saved, where the logs are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.run_facts import read_last_step
from jobs.run_folder import AttemptFolder, RunFolder, read_json
from jobs.status import RunStatus
from jobs.step_spans import Span, StepSpans

# Keys of a line about a training step that are no measurement.
_NOT_MEASURED = ("kind", "step", "steps", "attempt", "time", "samples", "sec_left")


@dataclass(frozen=True)
class AttemptStatus:
    """One attempt.

    Attributes:
        state: how it left the run; `running` for the present one.
        cause: why it ended; empty while it runs.
        nodes: names of its nodes, node 0 first; empty if it never started.
        blamed: nodes that made it end.
        steps: first and last step that it made; None if none.
        lost_steps: made, and lost as no checkpoint held them.
        started: when it was taken, seconds since the epoch.
        back_sec: from the last step of the attempt before to its own first step.
    """

    number: int
    job_id: str = ""
    state: str = ""
    cause: str = ""
    reason: str = ""
    nodes: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None
    lost_steps: int = 0
    started: float = 0.0
    ended: float | None = None
    back_sec: float | None = None


@dataclass(frozen=True)
class RunDetail:
    """One run with all its attempts.

    Attributes:
        row: what `list` says about it.
        metrics: the newest measurements of training, by name.
        evaluation: the newest evaluation: name, step, metrics.
        saved: step of the newest checkpoint, and when it was complete.
        budgets: cause -> how often the run may still go on after it.
        excluded: nodes that the run does not get any more.
        resources: what the newest submission asks for, as in `run.json`.
        logs: what -> path: rank 0's, the agents', the folder of the newest attempt's.
    """

    row: RunStatus
    attempts: tuple[AttemptStatus, ...]
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    evaluation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    saved: tuple[int, float] | None = None
    budgets: Mapping[str, Any] = field(default_factory=dict[str, Any])
    excluded: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    logs: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        """Return every field, the row's among them."""
        values = asdict(self)
        saved_at = self.saved[1] if self.saved else None
        saved_step = self.saved[0] if self.saved else None
        del values["saved"]
        return {**values.pop("row"), **values, "saved_step": saved_step, "saved_at": saved_at}


def read_detail(row: RunStatus, run: RunFolder) -> RunDetail:
    """Read everything else about a run whose row is known."""
    state = run.read_state()
    numbers = run.attempt_numbers()
    with StepSpans(run.metrics_jsonl) as spans:
        found = {number: spans.find(number) for number in numbers}
        evaluation = spans.last_evaluation()
    attempts: list[AttemptStatus] = []
    before: Span | None = None
    for number in numbers:
        span = found[number]
        is_last = number == numbers[-1]
        attempts.append(_read_attempt(run, number, span, before, row if is_last else None))
        before = span or before
    record = read_last_step(str(run.path))
    holder = run.attempt(numbers[-1]).holder if numbers else None
    spec = (read_json(run.spec_json(holder.token)) if holder else None) or (
        read_json(run.run_json) or {}
    ).get("spec", {})
    return RunDetail(
        row=row,
        attempts=tuple(attempts),
        metrics={k: v for k, v in record.items() if k not in _NOT_MEASURED},
        evaluation={k: evaluation[k] for k in ("name", "step", "metrics") if k in evaluation},
        saved=_read_saved(run),
        budgets=state.get("budgets") or {},
        excluded=tuple(state.get("excluded") or ()),
        resources=spec.get("resources") or {},
        logs=_find_logs(run, numbers[-1] if numbers else 0, row.job_id),
    )


def _read_attempt(
    run: RunFolder, number: int, span: Span | None, before: Span | None, row: RunStatus | None
) -> AttemptStatus:
    attempt = run.attempt(number)
    claim = read_json(attempt.claim_json) or {}
    outcome = read_json(attempt.outcome_json) or {}
    agents = _read_agents(attempt)
    first = agents[0] if agents else {}
    job = read_json(run.job_json(str(claim.get("token")))) or {}
    begun = first.get("time") if first.get("state") == "running" else None
    state = str(outcome.get("state") or (row.state if row else "lost"))
    lost_steps = before.step_last - span.step_first + 1 if before and span else 0
    return AttemptStatus(
        number=number,
        job_id=str(outcome.get("job_id") or first.get("job_id") or job.get("job_id") or ""),
        state=state,
        cause=str(outcome.get("cause") or (row.cause if row and state == "lost" else "")),
        reason=str(outcome.get("reason") or ""),
        nodes=tuple(outcome.get("nodes") or (str(agent.get("name")) for agent in agents)),
        blamed=tuple(outcome.get("blamed") or ()),
        steps=(span.step_first, span.step_last) if span else None,
        lost_steps=max(0, lost_steps),
        started=float(outcome.get("started") or begun or claim.get("time") or 0.0),
        ended=outcome.get("ended"),
        back_sec=_gap(before, span),
    )


def _gap(before: Span | None, span: Span | None) -> float | None:
    if before is None or span is None or not before.ended or not span.began:
        return None
    return max(0.0, span.began - before.ended)


def _read_agents(attempt: AttemptFolder) -> list[dict[str, Any]]:
    """Return what the agents said about themselves, node 0's first."""
    try:
        names = os.listdir(attempt.nodes)
    except OSError:
        return []
    numbers = sorted(int(name[:-5]) for name in names if name[:-5].isdecimal())
    found = (read_json(attempt.node_json(number)) for number in numbers)
    return [agent for agent in found if agent is not None]


def _read_saved(run: RunFolder) -> tuple[int, float] | None:
    step = run.last_commit_step()
    if step is None:
        return None
    try:
        return step, os.stat(run.checkpoints / f"step-{step}" / "COMMIT").st_mtime
    except OSError:  # thinned out this moment
        return step, time.time()


def _find_logs(run: RunFolder, attempt: int, job_id: str) -> dict[str, str]:
    """Return what there is to read: the file of rank 0, the folder, the jobs' own output."""
    logs: dict[str, str] = {}
    if attempt:
        folder = run.attempt(attempt)
        if folder.main_log.exists():
            logs["rank 0"] = str(folder.main_log)
        if folder.logs.is_dir():
            logs["all ranks"] = str(folder.logs)
    for path in sorted(run.submission.glob(f"{job_id}_*_log.out")) if job_id else ():
        logs.setdefault("agent", str(path))
    return logs
