"""Write texts for a corpus with an array of jobs: narrate clips, rephrase or filter narrations.

python launchers/narrate.py --shards 32 --partition a100 write.out=data/narrations/ego4d
python launchers/narrate.py --task rephrase --shards 8 --config configs/lavila/rephrase.yaml
python launchers/narrate.py --task filter --config configs/debug/filter.yaml --executor local

Every shard goes on where it was stopped; the last one joins all into total.pkl, .jsonl, .parquet.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import add_shards, in_shards, make_parser, parse_flags  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="narrate")
    tasks = ("narrate", "rephrase", "filter")
    parser.add_argument("--task", choices=tasks, default="narrate", help="default: narrate")
    add_shards(parser)
    flags = in_shards(parse_flags(parser, sys.argv[1:]), "write.")
    task = str(flags.pop("task"))

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind=task, command=task, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
