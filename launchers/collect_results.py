"""Print one table over all runs and write it as a page: python launchers/collect_results.py."""

import argparse
import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; nothing beyond argparse is imported for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--runs", metavar="DIR", help="folder of the runs (default: from configs/defaults.yaml)")
    add("--kind", default="*", help="only runs of these kinds: pretrain,finetune, or patterns")
    add("--name", default="*", help="only runs whose name has this part or shell pattern")
    add("--state", default="*", help="only runs in these states: done,failed,running, ...")
    add("--metrics", metavar="NAMES", help="only these metrics (patterns), in this order")
    best = "every metric at the step where this one is best, and the best run first"
    add("--best", metavar="METRIC[:min|max]", help=best)
    add("--sort", metavar="COLUMN[:asc|desc]", help="order of the lines")
    add("--group", action="store_true", help="one line for runs that differ in the seed: mean, std")
    add("--pivot", action="store_true", help="one line a model, one column a benchmark's metric")
    add("--limit", type=int, metavar="N", help="lines in a terminal (default: 200; 0 for all)")
    add("--csv", metavar="FILE", help="write every value as csv")
    add("--markdown", metavar="FILE", help="write the table as markdown")
    add("--html", metavar="FILE", help="where the page goes (default: report.html in the runs)")
    add("--no-html", action="store_true", help="write no page")
    add("--json", action="store_true", help="print json instead of a table")
    return parser


def main() -> int:
    """Run the command; returns the exit code."""
    arguments = build_parser().parse_args()
    sys.path.insert(0, HOME)
    from jobs.collect_command import collect_results  # the parser above must start without it

    return collect_results(arguments, HOME)


if __name__ == "__main__":
    sys.exit(main())
