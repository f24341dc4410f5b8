"""`python -m jobs gc`: remove code copies that no run needs. Checkpoints are not touched."""

from __future__ import annotations

import argparse

HELP = "remove code copies that no run refers to"

_SAID_OF_FINISHED = "also those whose runs are all done, failed or cancelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    add("--older-than", metavar="TIME", help="only what no launch took for so long: 12h, 30d")
    add("--finished", action="store_true", help=_SAID_OF_FINISHED)
    add("--runs", metavar="DIR", help="folder of all runs (default: that of configs/defaults.yaml)")
    add("--snapshots", metavar="DIR", help="folder of the copies (default: that of defaults.yaml)")
    add("--json", action="store_true", help="print json")


def run(arguments: argparse.Namespace) -> int:
    """Collect and say what went."""
    from pathlib import Path

    from jobs.garbage import collect_garbage
    from jobs.settings import load_settings
    from jobs.spec import parse_duration

    runs = Path(arguments.runs) if arguments.runs else None
    store = Path(arguments.snapshots) if arguments.snapshots else None
    if runs is None:
        settings = load_settings(Path(__file__).resolve().parents[1] / "configs")
        runs, store = settings.runs, store or settings.snapshots
    store = store or runs / ".snapshots"
    older = parse_duration(arguments.older_than) if arguments.older_than else 0
    garbage = collect_garbage(
        store,
        runs,
        older_than_sec=older,
        finished=arguments.finished,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        import json

        removed = [vars(each) for each in garbage.snapshots]
        leftovers = [vars(each) for each in garbage.leftovers]
        facts = {"store": str(store), "dry_run": arguments.dry_run, "freed": garbage.freed}
        facts |= {"snapshots": removed, "leftovers": leftovers, "kept": garbage.kept}
        print(json.dumps(facts, indent=1))
        return 0
    for each in (*garbage.snapshots, *garbage.leftovers):
        print(f"{each.name[:24]:<24}  {each.freed / 2**20:9.1f} MB")
    verb = "would free" if arguments.dry_run else "freed"
    count = len(garbage.snapshots) + len(garbage.leftovers)
    print(f"{verb} {garbage.freed / 2**20:.1f} MB in {count}; {garbage.kept} stay in {store}")
    return 0
