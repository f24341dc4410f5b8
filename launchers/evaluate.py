"""Evaluate a checkpoint on a benchmark, on a cluster or on this machine.

python launchers/evaluate.py --config configs/lavila/eval_egomcq.yaml checkpoint=runs/pretrain/NAME
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    flags = parse_flags(make_parser(__doc__ or "", recipe="evaluate"), sys.argv[1:])

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="evaluate", command="eval", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
