"""Write features of many videos into a store, in parts, on a cluster or on this machine.

python launchers/extract_features.py --shards 16 features.dataset.manifest=DIR/manifest.jsonl
python launchers/extract_features.py --checkpoint RELEASED.pth --video holiday.mp4
python launchers/extract_features.py --config configs/egovlp/features.yaml --shards 64 --parallel 8

The store is the recipe's features.out: one file a video, and facts.json with frame rate, window,
stride, layer, projection and the weights' hash. Videos that are there are not done again.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import (  # noqa: E402
    add_checkpoint,
    add_shards,
    as_list,
    in_shards,
    make_parser,
    parse_flags,
    with_checkpoint,
)


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="extract")
    add_checkpoint(parser)
    add_shards(parser)
    text = "a video of your own instead of the recipe's; may be given again"
    parser.add_argument("--video", action="append", metavar="FILE", help=text)
    flags = with_checkpoint(parse_flags(parser, sys.argv[1:]))
    if files := ", ".join(f"'{os.path.abspath(file)}'" for file in as_list(flags["video"])):
        own = ["features.dataset.manifest=null", f"features.dataset.files=[{files}]"]
        flags["overrides"] = [*as_list(flags["overrides"]), *own]

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    flags = in_shards(flags, "features.")
    return run_request(Path(HOME), kind="extract", command="extract", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
