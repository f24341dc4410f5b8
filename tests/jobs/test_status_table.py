"""The table of runs at the widths of real terminals."""

from __future__ import annotations

import time

import pytest

from jobs.status import RunStatus
from jobs.status_table import (
    cut,
    describe_note,
    format_clock,
    format_duration,
    render_table,
    summarise,
)

LONG = "lavila_tsf_large_336px_distilbert_narrator_mix-f77383c1"


def row(name: str = "base-0a1b2c3d", state: str = "running", **facts: object) -> RunStatus:
    values = {"attempt": 3, "executor": "slurm", "job_id": "123456", "step": 1200, "steps": 5000}
    values |= {"left_sec": 7800.0, "since": time.time() - 3700} | facts
    return RunStatus("pretrain", name, f"/runs/pretrain/{name}", state, **values)  # pyright: ignore


FAILED = row(LONG, "failed", cause="crash", reason="rank 3: CUDA out of memory. " * 5)
PENDING = row(state="queued", pending="Priority", starts=time.time() + 7200)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for rows in ([row()], [FAILED], [row(), FAILED, PENDING] * 100):
        for line in render_table(rows, width).splitlines():
            assert len(line) <= max(width, 78)


def test_notes_stand_beside_runs_where_there_is_room_and_below_them_where_not() -> None:
    wide, narrow = (render_table([row(), PENDING], width).splitlines() for width in (160, 80))
    assert len(wide) == 3
    assert "NOTE" in wide[0] and "Priority, starts about" in wide[2]
    assert len(narrow) == 4
    assert "NOTE" not in narrow[0] and narrow[3].startswith("    Priority, starts about")


def test_a_pipe_gets_everything() -> None:
    text = render_table([FAILED], None)
    assert LONG in text
    assert text.count("out of memory") == 5


def test_both_ends_of_a_long_name_are_kept() -> None:
    text = render_table([FAILED, row()], 80)
    assert "lavila_" in text and "f77383c1" in text


def test_columns_say_what_squeue_does_not() -> None:
    head, line = render_table([row(cause="preempt")], 160).splitlines()
    assert " ".join(head.split()) == "KIND NAME STATE TRY STEP LEFT JOB AGE NOTE"
    wanted = "pretrain base-0a1b2c3d running 3 1200/5000 2h10m 123456 1h01m after preempt"
    assert " ".join(line.split()) == wanted


def test_process_of_a_local_run_is_no_job() -> None:
    assert "pid 123456" in render_table([row(executor="local")], 120)


def test_states_are_coloured_on_request_without_shifting_columns() -> None:
    plain, coloured = (render_table([row(), FAILED], 120, colour=c) for c in (False, True))
    assert "\x1b[32mrunning\x1b[0m" in coloured
    for code in ("32", "31", "0"):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"state": "failed", "cause": "crash", "reason": "rank 1"}, "crash: rank 1"),
        ({"state": "cancelled", "reason": "scancel"}, "scancel"),
        ({"state": "done", "cause": "done"}, ""),
        (
            {"state": "queued", "pending": "BeginTime", "cause": "preempt"},
            "BeginTime, after preempt",
        ),
        ({"state": "unknown", "reason": "Slurm does not answer"}, "Slurm does not answer"),
        ({"state": "failed", "reason": "two\nlines"}, "two lines"),
    ],
)
def test_notes_say_why(facts: dict[str, str], note: str) -> None:
    assert describe_note(row(**facts), time.time()) == note


def test_times_are_short() -> None:
    seconds = (0, 59, 60, 3599, 3600, 7800, 86400, 100_000, 864_000)
    shown = ["0s", "59s", "1m", "59m", "1h00m", "2h10m", "1d", "1d3h", "10d"]
    assert [format_duration(each) for each in seconds] == shown
    now = time.time()
    assert len(format_clock(now + 3600, now)) == 5
    assert len(format_clock(now + 200_000, now)) > 8
    assert cut("abcdefgh", 6) == "abcd.." and cut("abc", 6) == "abc"


def test_counts() -> None:
    assert summarise([]) == "no runs"
    assert summarise([row(), row(), FAILED]) == "3 runs: 2 running, 1 failed"
