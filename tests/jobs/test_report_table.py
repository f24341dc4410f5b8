from __future__ import annotations

import csv
import io
import json
import math

import pytest

from jobs.collect import RunRow
from jobs.report_table import (
    format_hours,
    format_number,
    render_csv,
    render_json,
    render_markdown,
    render_terminal,
    shorten,
)

ROWS = [
    RunRow(
        kind="pretrain",
        name="lavila_tsf_base_with_a_rather_long_name-0a1b2c3d",
        path="runs/pretrain/x",
        state="done",
        step=6000,
        attempts=3,
        hours=53.34,
        loss=0.61234,
        last={"egomcq/inter_video": 92.8, "egomcq/intra_video": 61.0},
        best={"egomcq/inter_video": 93.1, "egomcq/intra_video": 61.0},
    ),
    RunRow(
        kind="finetune",
        name="b|c",
        path="runs/finetune/y",
        state="failed",
        loss=math.nan,
        last={"ek100/map": math.inf},
        best={"ek100/map": math.nan},
        note="crash: out of memory",
        problems=("metrics.jsonl: 1 damaged line(s), the first is line 3",),
    ),
]


def test_terminal_columns_are_aligned_and_say_what_went_wrong() -> None:
    lines = render_terminal(ROWS).splitlines()
    head, rule, first, second = lines[:4]
    start = head.index("state")
    assert first[start : start + 4] == "done" and second[start : start + 6] == "failed"
    for name, value in (("step", "6000"), ("hours", "53:20"), ("loss", "0.6123")):
        end = head.index(name) + len(name)
        assert first[:end].endswith(value)
    assert "92.8 (93.1)" in first and "61 (" not in first
    assert set(rule) == {"-", " "}
    assert "finetune/b|c: failed: crash: out of memory" in lines
    assert "finetune/b|c: metrics.jsonl: 1 damaged line(s), the first is line 3" in lines
    assert lines[-1] == "2 run(s): 1 done, 1 failed"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_terminal_fits_its_width_and_says_what_it_left_out(width: int) -> None:
    lines = render_terminal(ROWS, width).splitlines()
    least = 70  # the fixed columns with the shortest name
    table = lines[:4]
    assert all(len(line) <= max(width, least) for line in table)
    assert table[2].split()[1].startswith("lavila")
    missing = 3 - sum(name in table[0] for name in ("inter_video", "intra_video", "ek100/map"))
    assert any(line.startswith(f"{missing} more metric(s)") for line in lines) == (missing > 0)


def test_a_wide_terminal_cuts_nothing() -> None:
    assert render_terminal(ROWS, 500) == render_terminal(ROWS)
    assert ROWS[0].name in render_terminal(ROWS)


def test_csv_keeps_every_value_unrounded() -> None:
    first, second = csv.DictReader(io.StringIO(render_csv(ROWS)))
    assert float(first["loss"]) == 0.61234 and float(first["hours"]) == 53.34
    assert first["egomcq/inter_video"] == "92.8" and first["egomcq/inter_video best"] == "93.1"
    assert first["ek100/map"] == "" and second["name"] == "b|c"
    assert second["problems"].startswith("metrics.jsonl") and second["step"] == ""


def test_markdown_is_one_table_whatever_the_names() -> None:
    lines = render_markdown(ROWS).splitlines()
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "b\\|c" in lines[3]


def test_json_is_strict_and_has_no_curves() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    first, second = json.loads(render_json(ROWS), parse_constant=refuse)
    assert first["last"]["egomcq/intra_video"] == 61.0 and "curves" not in first
    assert second["loss"] is None and second["last"] == {"ek100/map": None}


def test_numbers_are_short_and_honest() -> None:
    assert [format_number(each) for each in (None, 0.0, 93.1, 0.000031, 123456.7, -2.0)] == [
        *("", "0", "93.1", "3.1e-05", "123457", "-2"),
    ]
    assert format_number(math.nan) == "nan" and format_number(-math.inf) == "-inf"
    assert [format_hours(each) for each in (0, 0.12, 53.34, 0.9999)] == [
        *("0:00", "0:07", "53:20", "1:00"),
    ]


def test_shortened_names_keep_both_ends() -> None:
    assert shorten("lavila_base-0a1b2c3d", 16) == "lavila_..a1b2c3d"
    assert shorten("abcdefgh", 4) == "abcd" and shorten("abc", 16) == "abc"
