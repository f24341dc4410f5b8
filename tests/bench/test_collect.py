"""Collecting 10,000 runs against the plain ways: walk and parse every json, or pandas."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from jobs.run_index import CURVES_NAME, INDEX_NAME
from tests.architecture.source import ROOT
from tests.bench.ratio import report_ratio
from tests.jobs.run_folders import eval_line, train_line

RUNS, LINES, PANDAS_RUNS = 10_000, 20, 500

# Every file read and parsed, the newest value of every metric kept, one line printed a run.
PLAIN = """
import glob, json, os, sys
for path in glob.glob(sys.argv[1] + "/*/*"):
    row = {}
    for name in ("run.json", "state.json", "result.json"):
        if os.path.exists(f"{path}/{name}"):
            with open(f"{path}/{name}") as file:
                row[name] = json.load(file)
    with open(f"{path}/metrics.jsonl") as file:
        records = [json.loads(line) for line in file]
    last = {}
    for record in records:
        last.update(record.get("metrics", {"loss": record.get("loss")}))
    print(os.path.basename(path), row["state.json"]["state"], records[-1]["step"], last)
"""

PANDAS = """
import glob, sys
import pandas as pd
rows = []
for path in glob.glob(sys.argv[1] + "/*/*"):
    frame = pd.read_json(f"{path}/metrics.jsonl", lines=True)
    scores = pd.json_normalize(frame["metrics"].dropna())
    state = pd.read_json(f"{path}/state.json", typ="series")
    rows.append({"run": path, "state": state["state"], "step": frame["step"].max(),
                 "loss": frame["loss"].dropna().iloc[-1], **scores.iloc[-1]})
print(pd.DataFrame(rows).to_string())
"""


def write_runs(runs: Path, count: int) -> Path:
    """Write finished runs of three kinds, an hour old, with 20 lines of metrics each."""
    draw = random.Random(0)
    for number in range(count):
        kind = ("pretrain", "finetune", "evaluate")[number % 3]
        folder = runs / kind / f"model{number % 40}_{number:05d}-{draw.getrandbits(32):08x}"
        folder.mkdir(parents=True)
        spec = {"arguments": ["train", f"seed={number % 3}", f"optim.lr={number % 7 + 1}e-5"]}
        facts = {"schema": 1, "kind": kind, "spec": spec, "created": 1.7e9 + number}
        lines = [
            eval_line(step, draw.uniform(20, 90), draw.uniform(20, 60))
            if step % 5 == 0
            else {**train_line(step, draw.random()), "steps": LINES}
            for step in range(1, LINES + 1)
        ]
        final = {"egomcq/inter_video": draw.uniform(20, 90)}
        state = {"state": "done", "step": LINES, "attempt": 1, "updated": 1.7e9 + number}
        result = {"schema": 1, "step": LINES, "seconds": 60.0, "metrics": final}
        for name, values in (("run", facts), ("state", state), ("result", result)):
            (folder / f"{name}.json").write_text(json.dumps(values, indent=1))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        # what changed just now is looked at again
        past = folder.stat().st_mtime - 3600
        for path in (*folder.iterdir(), folder):
            os.utime(path, (past, past))
    return runs


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def collect(runs: Path, *flags: object) -> str:
    launcher = ROOT / "launchers/collect_results.py"
    return run(sys.executable, launcher, "--runs", runs, "--limit", 200, *flags)


def forget(runs: Path) -> None:
    for name in (INDEX_NAME, CURVES_NAME):
        (runs / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs"), RUNS)


def test_ten_thousand_runs_cold_and_warm(runs: Path, benchmark: BenchmarkFixture) -> None:
    def cold() -> str:
        forget(runs)
        return collect(runs, "--no-html")

    def plain() -> str:
        return run(sys.executable, "-c", PLAIN, runs)

    assert len(plain().splitlines()) == RUNS
    assert f"{RUNS} run(s)" in cold()
    benchmark.pedantic(cold, rounds=1)
    report_ratio("collect 10,000 runs cold against a plain json walk", cold, plain)
    report_ratio(
        "collect 10,000 runs warm against a plain json walk",
        lambda: collect(runs, "--no-html"),
        plain,
    )


def test_ten_thousand_runs_as_csv_markdown_and_page(
    runs: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    files = {flag: tmp_path / f"a.{flag}" for flag in ("csv", "markdown", "html")}

    def write() -> str:
        files["html"].unlink(missing_ok=True)  # a page that is still right is not written again
        return collect(runs, *(word for flag in files for word in (f"--{flag}", files[flag])))

    write()
    assert all(path.stat().st_size > 10**6 for path in files.values())
    benchmark.pedantic(write, rounds=1)
    result = report_ratio(
        "warm table of 10,000 runs, against the same with csv, markdown and page",
        lambda: collect(runs, "--no-html"),
        write,
    )
    print(f"the files take {result.baseline_ms - result.ours_ms:.0f} ms more")


def test_against_pandas(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    some = write_runs(tmp_path, PANDAS_RUNS)

    def cold() -> str:
        forget(some)
        return collect(some, "--no-html")

    benchmark.pedantic(cold, rounds=1)
    report_ratio(
        f"collect {PANDAS_RUNS} runs cold against pandas",
        cold,
        lambda: run(sys.executable, "-c", PANDAS, some),
    )
