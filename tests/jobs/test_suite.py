"""Suites: what a file may say, and the one table of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.errors import ConfigError
from jobs.suite import Suite, build_suite_table, load_suite

GOOD = """\
benchmarks:
  - {name: a, config: configs/a.yaml}
  - {name: b, config: configs/b.yaml}
columns:
  - {title: B top-1, metric: b/top1}
  - {title: A mAP, metric: a/mAP}
published:
  - {name: "Paper, base", values: [12.5, -]}
"""


def suite_of(tmp_path: Path, text: str) -> Suite:
    (tmp_path / "configs/suites").mkdir(parents=True, exist_ok=True)
    (tmp_path / "configs/suites/mine.yaml").write_text(text)
    return load_suite(tmp_path, "mine")


def write_result(run: Path, metrics: dict[str, float]) -> Path:
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"schema": 1, "metrics": metrics}))
    return run


def test_results_stand_in_the_papers_order_beside_its_rows(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    runs = [
        write_result(tmp_path / "a", {"a/mAP": 31.26, "a/other": 1.0}),
        write_result(tmp_path / "b", {"b/top1": 7.0}),
    ]
    table = build_suite_table(suite, "ours", runs)
    assert table.missing == ()
    assert table.rows == (("ours", ("7.0", "31.3")), ("Paper, base", ("12.5", "-")))
    assert [line.split() for line in table.text().splitlines()][2] == ["ours", "7.0", "31.3"]
    assert "| ours | 7.0 | 31.3 |" in table.markdown()
    assert len({len(line) for line in table.text().splitlines()}) == 1


def test_a_benchmark_without_a_result_is_named(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    runs = [write_result(tmp_path / "a", {"a/mAP": 31.26}), tmp_path / "absent"]
    table = build_suite_table(suite, "ours", runs)
    assert table.missing == ("b",)
    assert table.rows[0][1] == ("-", "31.3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("columns:", "colums:"), "did you mean 'columns'"),
        (("metric: a/mAP", "metric: c/mAP"), "c/mAP"),
        (("values: [12.5, -]", "values: [12.5]"), "1 values for 2 columns"),
        (("{name: a, config: configs/a.yaml}", "{name: a}"), "needs name and config"),
        (("benchmarks:", "published:"), "twice"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suite_of(tmp_path, GOOD.replace(*change))


def test_an_unknown_suite_is_refused_with_the_closest(tmp_path: Path) -> None:
    suite_of(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        load_suite(tmp_path, "mien")
