"""What `launchers/collect_results.py` does with its flags."""

from __future__ import annotations

import functools
import gc
import os
import sys
from argparse import Namespace
from collections.abc import Callable

from jobs.collect import Collection, collect
from jobs.errors import JobsError
from jobs.report_table import render_csv, render_json, render_markdown, render_terminal
from jobs.result_table import ResultTable, TableRequest, build_table

# Lines on a screen unless asked for more; a pipe or a file gets all.
_SCREEN = 200


def collect_results(arguments: Namespace, home: str) -> int:
    """Print the table or the json, write the asked files and the page; returns the exit code.

    Args:
        arguments: runs, kind, name, state, group, pivot, best, metrics, sort, limit, csv, markdown,
            html, no_html, json.
        home: the project's root, for the runs folder of its defaults.
    """
    gc.disable()  # many small things that all stay: looking for garbage takes a third of the time
    try:
        runs = arguments.runs or _default_runs(home)
        collection = collect(runs, arguments.kind, arguments.name, arguments.state)
        if not collection.rows:
            return _explain_nothing(arguments, runs, collection)
        _report(arguments, runs, collection)
    except BrokenPipeError:
        sys.stdout = None  # the reader has seen enough, as in `| head`
    except (JobsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(arguments: Namespace, runs: str, collection: Collection) -> None:
    patterns = tuple(arguments.metrics.split(",")) if arguments.metrics else ()
    request = TableRequest(
        arguments.group, arguments.pivot, arguments.best or "", patterns, arguments.sort or ""
    )
    whole = functools.cache(lambda: build_table(collection, request))
    is_paged = not (arguments.json or arguments.no_html)
    page = arguments.html or (f"{runs}/report.html" if is_paged else "")
    if page:
        title = f"Results in {os.path.basename(os.path.realpath(runs))}"
        selection = (arguments.kind, arguments.name, arguments.state)
        _write_page(page, title, collection, repr((title, selection, tuple(request))), whole)
    if arguments.csv:
        _write_text(arguments.csv, render_csv(whole()))
    if arguments.markdown:
        _write_text(arguments.markdown, render_markdown(whole()))
    if arguments.json:
        print(render_json(whole()))
        return
    # a pipe or a file has no width: nothing is cut there
    is_screen = sys.stdout.isatty()
    limit = arguments.limit if arguments.limit is not None else (_SCREEN if is_screen else 0)
    width = os.get_terminal_size(sys.stdout.fileno()).columns if is_screen else None
    sys.stdout.reconfigure(errors="replace")  # type: ignore[reportAttributeAccessIssue]
    table = build_table(collection, request, limit) if limit else whole()
    print(render_terminal(table, collection.rows, width))
    if page:
        print(f"page: {os.path.realpath(page)}")


def _default_runs(home: str) -> str:
    from pathlib import Path

    from jobs.settings import load_settings  # reads yaml, which --runs does without

    return str(load_settings(Path(home) / "configs").runs)


def _explain_nothing(arguments: Namespace, runs: str, collection: Collection) -> int:
    for problem in collection.problems:
        print(problem, file=sys.stderr)
    if arguments.json:
        print("[]")
    everything = collect(runs).rows
    if everything:
        kinds = ", ".join(sorted({row.kind for row in everything}))
        states = ", ".join(sorted({row.state for row in everything}))
        text = f"no run in {runs} matches; there are {len(everything)}, of kind: {kinds}"
        text = f"{text}; in state: {states}"
    else:
        text = f"no runs in {runs} yet; start one: python launchers/pretrain.py, or make demo"
    print(text, file=sys.stderr)
    return 0


def _write_text(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write_page(
    path: str, title: str, collection: Collection, key: str, table: Callable[[], ResultTable]
) -> None:
    from jobs.report import is_current, write_report  # not for --json

    if not is_current(path, collection, key):
        write_report(path, collection, table(), title, key)
