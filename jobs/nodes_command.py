"""`python -m jobs nodes`: which nodes made runs end, and what Slurm says about them now."""

from __future__ import annotations

import argparse

from jobs.arguments import add_common

HELP = "nodes that were blamed for an attempt's end, how often, and by which runs excluded now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the nodes, the most often blamed first."""
    from jobs.find_run import runs_folder
    from jobs.node_blame import ask_states, read_blame, render_blame

    folder = runs_folder(arguments.runs)
    nodes = ask_states(read_blame(folder))
    if arguments.json:
        import json

        print(json.dumps({"schema": 1, "nodes": [node.to_json() for node in nodes]}, indent=1))
    elif nodes:
        print(render_blame(nodes))
    else:
        print(f"no node was blamed by any run in {folder}")
    return 0
