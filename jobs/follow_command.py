"""`python -m jobs follow`: stay beside a run and read its logs as they come."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

HELP = "logs, steps and states of a run as they come, over all its attempts, until it ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser)
    add = parser.add_argument
    add("--all-ranks", action="store_true", help="every rank's log, not only rank 0's")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Follow; returns 0 if the run is done, 1 if it ended otherwise, 130 after Ctrl-C.

    Raises:
        RunError: if there is no such run.
    """
    from jobs.find_run import find_run
    from jobs.follow import follow

    folder = find_run(arguments.run, arguments.runs)
    return follow(folder, all_ranks=arguments.all_ranks, as_json=arguments.json)
