"""``python -m egovl prepare``: make data. Imports nothing heavy before it is asked to work."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig

logger = logging.getLogger(__name__)

_SYNTHETIC = """\
Render a small corpus of real mp4 files with true narrations, in exactly the formats of EgoClip and
EgoMCQ: a hand moves coloured objects; verbs come in time-reversed pairs that only the order of
frames tells apart. Training on it takes minutes on a CPU. A second call with the same options does
nothing; an interrupted one is gone on with.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the kinds of data that can be made."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    synthetic = kinds.add_parser(
        "synthetic", help="render a corpus to try everything with", description=_SYNTHETIC
    )
    add = synthetic.add_argument
    add("--out", type=Path, required=True, help="folder to make, as data/synthetic")
    defaults = SyntheticConfig()
    add("--seed", type=int, default=defaults.seed, help="another seed is another corpus")
    add("--train-videos", type=int, default=defaults.train_videos, help="20 clips each")
    add("--eval-videos", type=int, default=defaults.eval_videos, help="20 questions of each type")
    add("--size", type=int, default=defaults.size, help="pixels, height and width")
    add("--chunk-sec", type=int, default=defaults.chunk_sec, help="seconds of one file")
    add("--workers", type=int, default=None, help="processes (default: one per core)")
    synthetic.set_defaults(call=_render)


def _render(args: argparse.Namespace) -> int:
    from egovl.data.prepare.synthetic import CorpusError, render_corpus

    names = [f.name for f in dataclasses.fields(SyntheticConfig)]
    try:
        config = SyntheticConfig(**{name: getattr(args, name) for name in names})
        report = render_corpus(config, args.out, args.workers)
    except (ValueError, CorpusError) as error:
        sys.stderr.write(f"egovl: {error}\n")
        return 2
    verb = "rendered" if report.is_new else "already there, nothing to do:"
    logger.info(
        "%s %s: %d videos, %d training clips, %d questions",
        args.out, verb, report.videos, report.clips, report.questions,
    )  # fmt: skip
    return 0
