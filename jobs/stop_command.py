"""`python -m jobs stop`."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

HELP = "save and end, and do not go on by itself; resume goes on with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser, nargs="+")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stop each run; 2 if one of them was refused, the others are done."""
    from jobs.steer import steer_all, stop

    return steer_all(arguments.run, arguments.runs, stop, as_json=arguments.json, begins=True)
