"""`python -m jobs cancel`."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

HELP = "end at once: what is not saved is lost; the run is marked as cancelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser, nargs="+")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Cancel each run; 2 if one of them was refused, the others are done."""
    from jobs.steer import cancel, steer_all

    return steer_all(arguments.run, arguments.runs, cancel, as_json=arguments.json, begins=True)
