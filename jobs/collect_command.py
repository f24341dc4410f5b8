"""What `launchers/collect_results.py` does with its flags."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from pathlib import Path

from jobs.collect import RunRow, collect_runs
from jobs.errors import JobsError
from jobs.report import write_report
from jobs.report_table import render_csv, render_json, render_markdown, render_terminal


def collect_results(arguments: Namespace, home: str) -> int:
    """Print the table or the json, write the asked files and the page; returns the exit code.

    Args:
        arguments: runs, kind, name, csv, markdown, html, json.
        home: the project's root, for the runs folder of its defaults.
    """
    try:
        runs = Path(arguments.runs) if arguments.runs else _default_runs(Path(home))
        rows = collect_runs(runs, arguments.kind, arguments.name)
        if not rows:
            return _explain_nothing(arguments, runs)
        page = Path(arguments.html) if arguments.html else runs / "report.html"
        _write_text(arguments.csv, render_csv(rows))
        _write_text(arguments.markdown, render_markdown(rows))
        _write_page(page, rows, runs)
    except (JobsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(render_json(rows))
        return 0
    # a pipe or a file has no width: nothing is cut there
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render_terminal(rows, width))
    print(f"page: {page.resolve()}")
    return 0


def _default_runs(home: Path) -> Path:
    from jobs.settings import load_settings  # reads yaml, which --runs does without

    return load_settings(home / "configs").runs


def _explain_nothing(arguments: Namespace, runs: Path) -> int:
    if arguments.json:
        print("[]")
    everything = collect_runs(runs)
    if everything:
        known = ", ".join(sorted({row.kind for row in everything}))
        text = f"no run in {runs} matches; there are {len(everything)}, of kind: {known}"
    else:
        text = f"no runs in {runs} yet; start one: python launchers/pretrain.py, or make demo"
    print(text, file=sys.stderr)
    return 0


def _write_text(path: str | None, text: str) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def _write_page(path: Path, rows: list[RunRow], runs: Path) -> None:
    write_report(path, rows, f"Results in {runs.resolve().name}")
