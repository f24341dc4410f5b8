"""`python -m jobs preempt`."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common, add_run

HELP = "a drill: give a run the signal of a preemption; it saves, stops and goes on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_run(parser, nargs="+")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Preempt each run; 2 if one of them was refused, the others are done."""
    from jobs.steer import preempt, steer_all

    return steer_all(arguments.run, arguments.runs, preempt, as_json=arguments.json)
