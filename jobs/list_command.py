"""`python -m jobs list`: all runs in one table, by one call to Slurm."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.array_view import WaitingArray
    from jobs.status import RunStatus, StatusReader

HELP = "all runs in one table: state, step, time left, job, why it waits or stopped"

# Runs that ended before are counted, not shown, unless asked for.
RECENT_DAYS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("--kind", metavar="KIND", help="only these kinds, with commas: pretrain,finetune")
    add("--state", metavar="STATE", help="only these states, with commas: running,lost")
    add("--all", action="store_true", help=f"also what ended more than {RECENT_DAYS} days ago")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if Slurm was needed and did not answer."""
    from jobs.find_run import runs_folder
    from jobs.status import StatusReader

    folder = runs_folder(arguments.runs)
    reader = StatusReader(folder)
    rows, hidden = choose_rows(
        reader, kinds=arguments.kind, states=arguments.state, is_all=arguments.all
    )
    show_rows(rows, hidden, reader, as_json=arguments.json, where=str(folder))
    return 1 if reader.problem else 0


def choose_rows(
    reader: StatusReader, kinds: str | None = None, states: str | None = None, is_all: bool = False
) -> tuple[list[RunStatus], int]:
    """Return the runs to show, and how many older ones there are besides.

    Args:
        reader: of all runs.
        kinds: names with commas; None for all.
        states: names with commas, which also shows old runs; None for all.
        is_all: whether old runs are shown.

    Raises:
        SpecError: if there is no such state or kind.
    """
    import time

    from jobs.errors import SpecError, unknown_name
    from jobs.judgement import GOING_ON, STATES

    wanted = states.split(",") if states else []
    for state in wanted:
        if state not in STATES:
            raise SpecError(unknown_name("state", state, STATES))
    rows = reader.read()
    if kinds:
        there = {row.kind for row in rows}
        for kind in kinds.split(","):
            if kind not in there:
                raise SpecError(unknown_name("kind of run", kind, there))
        rows = [row for row in rows if row.kind in kinds.split(",")]
    if wanted:
        return [row for row in rows if row.state in wanted], 0
    oldest = time.time() - RECENT_DAYS * 86400
    shown = [row for row in rows if is_all or row.state in GOING_ON or row.since >= oldest]
    return shown, len(rows) - len(shown)


def show_rows(
    rows: Sequence[RunStatus], hidden: int, reader: StatusReader, *, as_json: bool, where: str
) -> None:
    """Print runs as a table or as json."""
    import shutil
    import sys

    from jobs.status_table import render_table, wants_colour

    arrays = reader.read_arrays()
    if as_json:
        import json

        facts = {"schema": 1, "folder": where, "hidden": hidden, "problem": reader.problem}
        lists = {"arrays": [each.to_json() for each in arrays]}
        lists["runs"] = [row.to_json() for row in rows]
        print(json.dumps({**facts, **lists}, indent=1))
        return
    # a pipe or a file has no width: nothing is cut there
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if rows:
        print(render_table(rows, width, colour=wants_colour()))
        print()
    print(describe_end(rows, hidden, where, arrays))
    if reader.problem:
        print(f"Slurm does not answer: {reader.problem}", file=sys.stderr)


def describe_end(
    rows: Sequence[RunStatus], hidden: int, where: str, arrays: Sequence[WaitingArray] = ()
) -> str:
    """Return the lines below a table: counts, what is not shown, what to do about lost runs."""
    from jobs.status_table import summarise

    if not rows and not hidden and not arrays:
        return f"no runs in {where} yet; start one: python launchers/pretrain.py, or make demo"
    older = f"; {hidden} ended more than {RECENT_DAYS} days ago: --all" if hidden else ""
    lines = [summarise(rows) + older, *(array.describe() for array in arrays)]
    lost = next((row for row in rows if row.state == "lost"), None)
    if lost is not None:
        lines.append(f"lost: nobody is at work on it; go on with python -m jobs resume {lost.name}")
    return "\n".join(lines)
