"""One run as text: `status RUN`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.judgement import GOING_ON
from jobs.run_detail import AttemptStatus, RunDetail
from jobs.status_table import cut, describe_note, describe_step, format_clock, format_duration

_HEAD = ("TRY", "JOB", "STARTED", "STEPS", "LOST", "BACK IN", "ENDED AS", "NODES")
_RIGHT = frozenset((0, 4, 5))
_LABEL = 11
_SHOWN_ATTEMPTS = 30


def render_detail(detail: RunDetail, width: int | None) -> str:
    """Return everything about a run: what it does, then its attempts, then where to look.

    Args:
        detail: the run.
        width: characters in a line, None for no limit.
    """
    row, now = detail.row, time.time()
    head = f"{row.kind}/{row.name}: {row.state}"
    if row.since:
        head += f" for {format_duration(now - row.since)}"
    if row.executor:
        head += f", {'job' if row.executor == 'slurm' else 'process'} {row.job_id or '-'}"
    facts = [(label, text) for label, text in _facts(detail, now) if text]
    lines = [head, *(_cut(f"  {label:<{_LABEL}}{text}", width) for label, text in facts)]
    if detail.attempts:
        lines += ["", *_attempt_lines(detail.attempts, now, width)]
    lines += ["", *(f"  {what:<{_LABEL}}{path}" for what, path in detail.logs.items())]
    lines.append(f"  {'folder':<{_LABEL}}{row.path}")
    return "\n".join(line.rstrip() for line in lines)


def _facts(detail: RunDetail, now: float) -> list[tuple[str, str]]:
    row = detail.row
    return [
        ("why", describe_note(row, now)),
        ("step", _progress(detail, now)),
        ("training", _numbers(detail.metrics)),
        (str(detail.evaluation.get("name", "")), _evaluation(detail.evaluation)),
        ("saved", _saved(detail, now)),
        ("nodes", _place(detail)),
        ("may go on", _budgets(detail.budgets)),
        ("excluded", ", ".join(detail.excluded)),
    ]


def _progress(detail: RunDetail, now: float) -> str:
    row = detail.row
    text = describe_step(row).replace("/", " of ")
    if row.step is not None and row.steps:
        text += f" ({100 * row.step // row.steps} %)"
    if row.left_sec is not None and row.state in GOING_ON:
        text += f", {format_duration(row.left_sec)} of training left"
        if row.state == "running":
            text += f", ready about {format_clock(now + row.left_sec, now)}"
    return text


def _numbers(values: Mapping[str, Any]) -> str:
    shown = [(k, v) for k, v in values.items() if isinstance(v, int | float)]
    return ", ".join(f"{k} {v:.4g}" for k, v in shown)


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return ""
    return f"{_numbers(evaluation.get('metrics') or {})} (step {evaluation.get('step')})"


def _saved(detail: RunDetail, now: float) -> str:
    if detail.saved is None:
        return "nothing yet" if detail.row.state != "done" else ""
    step, moment = detail.saved
    return f"step {step}, {format_duration(now - moment)} ago"


def _budgets(budgets: Mapping[str, Any]) -> str:
    known = {cause: left for cause, left in budgets.items() if isinstance(left, int)}
    return ", ".join(f"{cause} {left}x" for cause, left in known.items())


def _place(detail: RunDetail) -> str:
    ask = detail.resources
    words = [
        detail.row.nodes,
        f"{ask.get('nodes', 1)} x {ask.get('processes_per_node', 1)} processes",
    ]
    if ask.get("partition") or detail.row.partition:
        words.append(f"partition {detail.row.partition or ask.get('partition')}")
    if ask.get("time_limit_sec"):
        words.append(f"limit {format_duration(ask['time_limit_sec'])}")
    return ", ".join(word for word in words if word)


def _attempt_lines(attempts: Sequence[AttemptStatus], now: float, width: int | None) -> list[str]:
    shown = attempts[-_SHOWN_ATTEMPTS:]
    table = [_HEAD, *(_attempt_cells(each, now) for each in shown)]
    kept = [i for i in range(len(_HEAD)) if i < 4 or any(line[i] for line in table[1:])]
    widths = {i: max(len(line[i]) for line in table) for i in kept}
    lines = [
        "  ".join(
            line[i].rjust(widths[i]) if i in _RIGHT else line[i].ljust(widths[i]) for i in kept
        )
        for line in table
    ]
    if len(attempts) > len(shown):
        lines.insert(1, f"({len(attempts) - len(shown)} earlier attempts: --json)")
    return [_cut(line, width) for line in lines]


def _attempt_cells(attempt: AttemptStatus, now: float) -> tuple[str, ...]:
    end = attempt.cause or attempt.state
    if attempt.state in ("failed", "stopped", "lost") and attempt.cause:
        end = f"{attempt.state}: {attempt.cause}"
    if attempt.blamed:
        end += f" ({', '.join(attempt.blamed)})"
    steps = f"{attempt.steps[0]}-{attempt.steps[1]}" if attempt.steps else ""
    return (
        str(attempt.number),
        attempt.job_id,
        format_clock(attempt.started, now) if attempt.started else "",
        steps,
        str(attempt.lost_steps) if attempt.lost_steps else "",
        "" if attempt.back_sec is None else format_duration(attempt.back_sec),
        end,
        list_names(attempt.nodes),
    )


def list_names(names: Sequence[str]) -> str:
    """Return node names, of many the first and the last only."""
    if len(names) <= 4:
        return ",".join(names)
    return f"{names[0]}..{names[-1]} ({len(names)})"


def _cut(line: str, width: int | None) -> str:
    return line if width is None else cut(line, width)
