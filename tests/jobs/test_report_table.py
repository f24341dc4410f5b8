from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from jobs.collect import collect
from jobs.report_table import (
    format_hours,
    format_number,
    format_spread,
    render_csv,
    render_json,
    render_markdown,
    render_terminal,
    shorten,
)
from jobs.result_table import ResultTable, TableRequest, build_table
from tests.jobs.run_folders import eval_line, make_run, train_line

LONG = "lavila_tsf_base_with_a_rather_long_name-0a1b2c3d"


def make_table(runs: Path, **wanted: bool) -> ResultTable:
    lines = [{**train_line(1, 2.0, time=1.0), "steps": 6000}]
    lines += [{**train_line(6000, 0.61234, 3, time=2.0), "steps": 6000}]
    lines += [eval_line(2000, 93.1, 60.0), eval_line(6000, 92.8, 61.0)]
    folder = make_run(runs, f"finetune/{LONG}", lines, {"state": "done", "attempt": 3})
    (folder / "result.json").write_text('{"step": 6000, "seconds": 192024}')
    for line in lines:
        line["time"] = 0
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    cut = [train_line(40, math.nan), {**train_line(50, math.nan), "steps": 100}]
    state = {"state": "failed", "cause": "crash", "reason": "out of memory"}
    other = make_run(runs, "pretrain/b|c", cut, state, {"ek100/map": math.inf})
    (other / "result.json").unlink()
    with open(other / "metrics.jsonl", "a") as file:
        file.write(json.dumps({**eval_line(50, 1, 2), "metrics": {"intra_video": math.inf}}))
        file.write("\n{half\n")
    return build_table(collect(runs), TableRequest(**wanted))


def show(table: ResultTable, width: int | None = None) -> str:
    return render_terminal(table, [row for line in table.lines for row in line.rows], width)


@pytest.fixture
def table(tmp_path: Path) -> ResultTable:
    return make_table(tmp_path)


def test_terminal_columns_are_aligned_and_say_what_went_wrong(table: ResultTable) -> None:
    lines = show(table).splitlines()
    head, rule, first, second = lines[:4]
    start = head.index("state")
    assert first[start : start + 4] == "done" and second[start:].startswith("failed: crash")
    for name, value in (("step", "6000"), ("hours", "53:20"), ("loss", "0.6123")):
        end = head.index(name) + len(name)
        assert first[:end].endswith(value)
    assert second[: head.index("step") + 4].endswith(" 50/100")
    assert "92.8 (93.1)" in first and "61 (" not in first
    assert set(rule) == {"-", " "}
    assert "pretrain/b|c: failed: crash: out of memory" in lines
    assert "pretrain/b|c: metrics.jsonl: 1 damaged line(s), the first is line 4" in lines
    assert lines[-1] == "2 run(s): 1 done, 1 failed"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_terminal_fits_its_width_and_says_what_it_left_out(table: ResultTable, width: int) -> None:
    lines = show(table, width).splitlines()
    least = 80  # the fixed columns with the shortest name
    assert all(len(line) <= max(width, least) for line in lines[:4])
    assert lines[2].split()[1].startswith("lavila")
    missing = [name for name in ("inter_video", "intra_video") if name not in lines[0]]
    said = [line for line in lines if line.startswith(f"no room for {len(missing)} column(s)")]
    assert bool(said) == bool(missing) and all(name in said[0] for name in missing)


def test_a_wide_terminal_cuts_nothing(table: ResultTable) -> None:
    assert show(table, 500) == show(table)
    assert LONG in show(table)


def test_a_limit_keeps_the_newest_or_the_first_of_an_order(tmp_path: Path) -> None:
    for number in range(5):
        make_run(tmp_path, f"pretrain/r{number}", [eval_line(9 - number, 10.0 + number, 1.0)])
    runs = collect(tmp_path)
    newest = render_terminal(build_table(runs, TableRequest(), 2), runs.rows)
    assert "r0" in newest and "r1" in newest and "r2" not in newest and "3 more line(s)" in newest
    best = render_terminal(build_table(runs, TableRequest(best="inter_video"), 2), runs.rows)
    assert "r4" in best and "r3" in best and "r2" not in best
    assert newest.splitlines()[-1] == "5 run(s): 5 incomplete"


def test_csv_keeps_every_value_unrounded(table: ResultTable) -> None:
    first, second = csv.DictReader(io.StringIO(render_csv(table)))
    assert float(first["loss"]) == 0.61234 and float(first["hours"]) == pytest.approx(53.34)
    assert first["egomcq/inter_video"] == "92.8" and first["egomcq/inter_video best"] == "93.1"
    assert first["egomcq/inter_video best step"] == "2000"
    assert second["egomcq/inter_video"] == "" and second["egomcq/intra_video"] == "inf"
    assert (second["state"], second["cause"], second["reason"]) == (
        *("failed", "crash", "out of memory"),
    )
    assert (second["name"], second["step"], second["steps"]) == ("b|c", "50", "100")
    assert second["problems"].startswith("metrics.jsonl") and second["path"] == "pretrain/b|c"


def test_csv_of_groups_has_mean_deviation_and_count(tmp_path: Path) -> None:
    for seed, value in ((0, 1.0), (1, 3.0)):
        make_run(tmp_path, f"evaluate/a{seed}", metrics={"x/y": value}, config=f"seed: {seed}\n")
    table = build_table(collect(tmp_path), TableRequest(group=True))
    [line] = csv.DictReader(io.StringIO(render_csv(table)))
    assert (line["x/y"], line["x/y n"], line["runs"], line["seeds"]) == ("2.0", "2", "2", "0 1")
    assert float(line["x/y std"]) == pytest.approx(math.sqrt(2))
    assert line["path"] == "evaluate/a0 evaluate/a1" or line["path"] == "evaluate/a1 evaluate/a0"
    assert "2.0 \u00b1 1.4" in show(table)
    [shown] = json.loads(render_json(table))
    assert shown["metrics"]["x/y"]["runs"] == 2


def test_markdown_is_one_table_whatever_the_names(table: ResultTable) -> None:
    lines = render_markdown(table).splitlines()
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "b\\|c" in lines[3]


def test_json_is_strict_and_has_no_curves(table: ResultTable) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    first, second = json.loads(render_json(table), parse_constant=refuse)
    assert first["last"]["egomcq/intra_video"] == 61.0 and "curves" not in first
    assert second["loss"] is None and second["last"] == {"egomcq/intra_video": None}
    assert second["state"] == "failed" and second["reason"] == "out of memory"


def test_config_columns_have_short_names_that_tell_them_apart(tmp_path: Path) -> None:
    for number, (width, lr) in enumerate(((1, 1), (2, 2))):
        text = f"a:\n  width: {width}\n  file: {width}\nb:\n  width: {width}\n  lr: {lr}\n"
        make_run(tmp_path, f"pretrain/{number}", [train_line(1, 1.0)], config=text)
    head = show(build_table(collect(tmp_path), TableRequest())).splitlines()[0]
    assert head.split()[-4:] == ["a.width", "a.file", "b.width", "lr"]


def test_numbers_are_short_and_honest() -> None:
    assert [format_number(each) for each in (None, 0.0, 93.1, 0.000031, 123456.7, -2.0)] == [
        *("", "0", "93.1", "3.1e-05", "123457", "-2"),
    ]
    assert format_number(math.nan) == "nan" and format_number(-math.inf) == "-inf"
    assert [format_hours(each) for each in (0, 0.12, 53.34, 0.9999)] == [
        *("0:00", "0:07", "53:20", "1:00"),
    ]


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (90.2345, 0.1712, "90.23 \u00b1 0.17"),
        (90.2345, 12.3, "90 \u00b1 12"),
        (0.01234, 0.00021, "0.01234 \u00b1 0.00021"),
        (5.0, 0.0, "5 \u00b1 0"),
        (5.25, math.nan, "5.25"),
    ],
)
def test_a_deviation_says_how_many_digits_count(mean: float, deviation: float, text: str) -> None:
    assert format_spread(mean, deviation) == text


def test_shortened_names_keep_both_ends() -> None:
    assert shorten("lavila_base-0a1b2c3d", 16) == "lavila_..a1b2c3d"
    assert shorten("abcdefgh", 4) == "abcd" and shorten("abc", 16) == "abc"
