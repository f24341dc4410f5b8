from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.run_folders import eval_line, make_run, train_line

PROJECT = Path(__file__).parents[2]
LAUNCHER = PROJECT / "launchers/collect_results.py"


def collect(*arguments: object, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """Run the launcher without any installed package: -S leaves site-packages out."""
    command = [sys.executable, "-S", str(LAUNCHER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    lines = [train_line(1, 2.0), eval_line(2, 40.0, 30.0)]
    make_run(tmp_path / "runs", "pretrain/a", lines, {"state": "stopped", "cause": "preempt"})
    make_run(tmp_path / "runs", "evaluate/b", metrics={"egomcq/inter_video": 93.25})
    return tmp_path / "runs"


def test_table_and_page_come_without_any_package_installed(runs: Path, tmp_path: Path) -> None:
    done = collect("--runs", runs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "93.25" in done.stdout and "stopped: preempt" in done.stdout
    assert done.stdout.splitlines()[-1] == f"page: {runs / 'report.html'}"
    assert "</html>" in (runs / "report.html").read_text()


def test_every_format_goes_where_it_is_asked(runs: Path, tmp_path: Path) -> None:
    names = {"--csv": "new/a.csv", "--markdown": "a.md", "--html": "a.html"}
    flags = [part for flag, name in names.items() for part in (flag, tmp_path / name)]
    done = collect("--runs", runs, "--name", "b", *flags)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "new/a.csv") as file:
        assert [row["egomcq/inter_video"] for row in csv.DictReader(file)] == ["93.25"]
    assert "| evaluate | b | done |" in (tmp_path / "a.md").read_text()
    assert "</html>" in (tmp_path / "a.html").read_text() and not (runs / "report.html").exists()


def test_json_is_all_there_is_on_standard_output(runs: Path) -> None:
    done = collect("--runs", runs, "--json", "--kind", "pretrain")
    assert [row["name"] for row in json.loads(done.stdout)] == ["a"]


def test_no_runs_says_how_to_get_one(tmp_path: Path, runs: Path) -> None:
    done = collect("--runs", tmp_path / "none")
    assert done.returncode == 0 and "launchers/pretrain.py" in done.stderr
    done = collect("--runs", runs, "--kind", "pretrian")
    assert "there are 2, of kind: evaluate, pretrain; in state: done, stopped" in done.stderr
    assert json.loads(collect("--runs", tmp_path / "none", "--json").stdout) == []


def test_tables_by_seed_by_benchmark_and_by_a_metric_are_flags(runs: Path) -> None:
    make_run(runs, "pretrain/c-00000001", [eval_line(3, 50.0, 31.0)], {"state": "done"})
    flags = ("--group", "--best", "inter_video", "--metrics", "intra_video", "--state", "done")
    assert collect("--runs", runs, *flags).returncode == 2  # the best metric is not among them
    done = collect("--runs", runs, *flags[:3], "--sort", "inter_video:asc")
    lines = [line.split()[:2] for line in done.stdout.splitlines()[2:5]]
    assert lines == [["pretrain", "a"], ["pretrain", "c-00000001"], ["evaluate", "b"]]
    done = collect("--runs", runs, "--pivot", "--json")
    assert {line["name"] for line in json.loads(done.stdout)} == {"a", "c-00000001", "b"}


def test_an_unknown_name_is_refused_with_those_there_are(runs: Path) -> None:
    for flag in ("--best", "--sort", "--metrics"):
        done = collect("--runs", runs, flag, "inter_vide")
        assert done.returncode == 2 and "did you mean 'egomcq/inter_video'" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(runs: Path) -> None:
    for number in range(400):
        make_run(runs, f"pretrain/{'long' * 20}{number}")
    command = f"{sys.executable} -S {LAUNCHER} --runs {runs} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("kind") and done.stderr == ""


def test_a_place_that_cannot_be_written_is_an_error_without_traceback(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    done = collect("--runs", runs, "--csv", tmp_path / "file/a.csv")
    assert done.returncode == 2 and done.stderr.startswith("error:")
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_but_argparse() -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "import argparse, os; argparse.ArgumentParser().format_help(); before = set(sys.modules)\n"
        "try: runpy.run_path(sys.argv.pop(0) or '', run_name='__main__')\n"
        "except SystemExit: pass\n"
    )
    code = code.replace("sys.argv.pop(0) or ''", repr(str(LAUNCHER)))
    code += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import runpy, argparse\n" + code],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    heavy = {"torch", "numpy", "submitit", "yaml", "dataclasses", "pathlib", "jobs"}
    assert "--pivot" in done.stdout and not loaded & heavy
