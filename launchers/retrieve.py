"""For every ego clip, find the instructional clips that show the same, with an array of jobs.

python launchers/retrieve.py --shards 16 --partition a100
python launchers/retrieve.py --checkpoint runs/pretrain/NAME supports.top=15 supports.out=DIR
python launchers/retrieve.py --config configs/debug/supports.yaml --checkpoint RUN --executor local

Every shard goes on where it was stopped. The last one writes what the captioner reads into the
recipe's supports.out: *_instructions.json, *_config.json, and *_videos.txt, the videos needed.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import (  # noqa: E402
    add_checkpoint,
    add_shards,
    in_shards,
    make_parser,
    parse_flags,
    with_checkpoint,
)


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="retrieve")
    add_checkpoint(parser)
    add_shards(parser)
    flags = with_checkpoint(parse_flags(parser, sys.argv[1:]))

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    flags = in_shards(flags, "supports.")
    return run_request(Path(HOME), kind="retrieve", command="retrieve", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
