"""Finetune a pretrained model, on a cluster or on this machine.

python launchers/finetune.py --checkpoint runs/pretrain/NAME --partition a100
python launchers/finetune.py --config configs/lavila/finetune_egtea_tsf_base.yaml --time 24h
python launchers/finetune.py --config configs/debug/classify.yaml --checkpoint runs/pretrain/NAME

The checkpoint is a run's folder (its newest weights), a file of `python -m egovl export`, or a
released file; without one, the recipe's init: is used.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, HOME)  # run as a file: the project is not on the path

from launchers.arguments import add_checkpoint, make_parser, parse_flags, with_checkpoint  # noqa: E402


def main() -> int:
    """Read the flags and launch."""
    parser = make_parser(__doc__ or "", recipe="finetune")
    add_checkpoint(parser)
    flags = with_checkpoint(parse_flags(parser, sys.argv[1:]))

    from pathlib import Path  # after the flags: --help must cost nothing

    from jobs.launcher import run_request

    return run_request(Path(HOME), kind="finetune", command="train", flags=flags)


if __name__ == "__main__":
    sys.exit(main())
