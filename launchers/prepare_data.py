"""Resize and chunk videos, in parts, on a cluster or on this machine.

python launchers/prepare_data.py --config configs/prepare/ego4d_300s.yaml --shards 64 --cpus 8
python launchers/prepare_data.py --config configs/prepare/ek100.yaml --subset 10 --executor local
python launchers/prepare_data.py --config configs/prepare/egtea.yaml source=/data/EGTEA/clips

Folders are those of configs/paths.yaml. Videos that are there are not made again; the same command
goes on where it stopped. The manifest comes with the last part, and bad videos are listed beside
it. No GPU is asked for.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import add_shards, as_list, in_shards, make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="prepare")
    add_shards(parser)
    parser.add_argument("--subset", type=int, metavar="N", help="only the first N videos")
    parser.set_defaults(gpus=0, processes=1)
    flags = parse_flags(parser, sys.argv[1:])
    if flags["subset"] is not None:
        flags["overrides"] = [*as_list(flags["overrides"]), f"subset={flags['subset']}"]

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="prepare", command="prepare videos", flags=in_shards(flags))


if __name__ == "__main__":
    sys.exit(main())
