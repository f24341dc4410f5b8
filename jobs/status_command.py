"""`python -m jobs status`: one run with its attempts, or all, once or as a view that stays."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from jobs.run_detail import RunDetail
    from jobs.run_folder import RunFolder
    from jobs.status import StatusReader
    from jobs.watch import Frame

HELP = "one run with all its attempts, or without RUN all runs; --watch stays and refreshes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser, nargs="?")
    parser.add_argument(
        "--watch", action="store_true", help="stay and refresh until nothing is live, or Ctrl-C"
    )
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print how one run stands, or all.

    Returns:
        0; 1 if Slurm was needed and did not answer.

    Raises:
        RunError: if there is no such run.
        SpecError: if json is asked for from a view that stays.
    """
    from jobs.errors import SpecError
    from jobs.find_run import find_run, runs_folder
    from jobs.status import StatusReader

    if arguments.watch and arguments.json:
        raise SpecError("--watch is for people: leave out --json, or ask again and again")
    if arguments.run is None:
        return _show_all(StatusReader(runs_folder(arguments.runs)), arguments)
    folder = find_run(arguments.run, arguments.runs)
    reader = StatusReader(folder.path.parent.parent)
    if arguments.watch:
        from jobs.watch import watch

        watch(lambda width: _draw_one(reader, folder, width))
        return 1 if reader.problem else 0
    detail = _read(reader, folder)
    reader.lift_wait(detail.row)
    _show_one(detail, as_json=arguments.json)
    return _report(reader)


def _show_all(reader: StatusReader, arguments: argparse.Namespace) -> int:
    from jobs.list_command import choose_rows, show_rows

    if arguments.watch:
        from jobs.watch import watch

        watch(lambda width: _draw_all(reader, width))
        return 1 if reader.problem else 0
    rows, hidden = choose_rows(reader)
    for row in rows:
        reader.lift_wait(row)
    show_rows(rows, hidden, reader, as_json=arguments.json, where=str(reader.runs))
    return 1 if reader.problem else 0


def _read(reader: StatusReader, folder: RunFolder) -> RunDetail:
    from jobs.errors import RunError
    from jobs.run_detail import read_detail

    row = reader.read_one(folder.path)
    if row is None:
        raise RunError(f"{folder.path} is not a run folder any more")
    return read_detail(row, folder)


def _show_one(detail: RunDetail, *, as_json: bool) -> None:
    import shutil
    import sys

    from jobs.detail_text import render_detail

    if as_json:
        import json

        print(json.dumps({"schema": 1, **detail.to_json()}, indent=1))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render_detail(detail, width))


def _report(reader: StatusReader) -> int:
    import sys

    if reader.problem:
        print(f"Slurm does not answer: {reader.problem}", file=sys.stderr)
    return 1 if reader.problem else 0


def _draw_one(reader: StatusReader, folder: RunFolder, width: int | None) -> Frame:
    from jobs.detail_text import render_detail
    from jobs.judgement import GOING_ON
    from jobs.watch import Frame

    detail = _read(reader, folder)
    reader.lift_wait(detail.row)
    row = detail.row
    brief = f"{row.state} {row.attempt} {row.job_id} {row.pending} {row.cause} {row.step}"
    return Frame(render_detail(detail, width), brief, row.state in GOING_ON)


def _draw_all(reader: StatusReader, width: int | None) -> Frame:
    import time

    from jobs.judgement import GOING_ON
    from jobs.list_command import choose_rows, describe_end
    from jobs.status_table import render_table, wants_colour
    from jobs.watch import Frame

    rows, hidden = choose_rows(reader)
    for row in rows:
        reader.lift_wait(row)
    table = render_table(rows, width, colour=wants_colour()) if rows else ""
    arrays = reader.read_arrays()
    end = describe_end(rows, hidden, str(reader.runs), arrays)
    if reader.problem:
        end += "\nSlurm does not answer; states are as last written"
    head = f"{time.strftime('%H:%M:%S')}  {end.splitlines()[0]}"
    brief = "\n".join(f"{r.name} {r.state} {r.attempt} {r.job_id} {r.pending}" for r in rows)
    text = "\n".join([head, "", table, *end.splitlines()[1:]])
    is_live = any(row.state in GOING_ON for row in rows) or any(array.jobs for array in arrays)
    return Frame(text, brief, is_live)
