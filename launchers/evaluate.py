"""Evaluate a checkpoint on a benchmark, or on all of a paper's table, on a cluster or here.

python launchers/evaluate.py --config configs/lavila/egomcq_tsf_base.yaml --checkpoint FILE
python launchers/evaluate.py --suite zero_shot --checkpoint runs/pretrain/NAME --follow
python launchers/evaluate.py --suite zero_shot --checkpoint runs/pretrain/NAME --table

A suite (configs/suites/) is one job array, a run for each benchmark, and one table laid out like
the paper's row. The checkpoint is a run's folder, an export, or a released file; without one, the
recipe's init: is used.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import add_checkpoint, make_parser, parse_flags, with_checkpoint  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="evaluate")
    add_checkpoint(parser)
    parser.add_argument(
        "--suite", metavar="NAME", help="all benchmarks of configs/suites/NAME.yaml"
    )
    text = "print a suite's table as far as it is there, start nothing"
    parser.add_argument("--table", action="store_true", help=text)
    flags = with_checkpoint(parse_flags(parser, sys.argv[1:]))

    from pathlib import Path  # after the flags: --help must cost nothing

    if flags["suite"]:
        from jobs.suite_request import run_suite

        return run_suite(Path(HOME), flags)
    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="evaluate", command="eval", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
