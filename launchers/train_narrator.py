"""Train a narrator (or the language model it starts from) on a cluster or on this machine.

python launchers/train_narrator.py --nodes 4 --partition a100
python launchers/train_narrator.py --config configs/debug/narrator.yaml --executor local --follow
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    flags = parse_flags(make_parser(__doc__ or "", recipe="train_narrator"), sys.argv[1:])

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="train_narrator", command="train", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
