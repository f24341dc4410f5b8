"""Pretrain a video-language model on a cluster, or on this machine where there is no Slurm.

python launchers/pretrain.py --nodes 4 --partition a100
python launchers/pretrain.py --nodes 4 --time 48h optim.lr=3e-5 --dry-run
python launchers/pretrain.py --config configs/debug/demo.yaml --executor local --follow
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    flags = parse_flags(make_parser(__doc__ or "", recipe="pretrain"), sys.argv[1:])

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="pretrain", command="train", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
