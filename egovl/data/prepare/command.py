"""Command line of the preparation steps: `python -m egovl prepare synthetic --out DIR`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig

_EPILOG = """\
what it makes:
  DIR/videos/<video_uid>/<k>.mp4   h264, 30 fps, keyframe every 15 frames, no B-frames
  DIR/egoclip.csv                  training narrations, in EgoClip's format
  DIR/egomcq.json                  questions over held-out videos, in EgoMCQ's format
  DIR/egosummary_full.csv, summary*.json, howto100m_*.csv, fho_lta_*.json
                                   summaries, questions on them, classes of whole videos, coming
                                   actions, in the formats of HierVL, HowTo100M and Ego4D's LTA
  DIR/corpus.json                  counts and options; verbs and nouns behind the tags; chance
  DIR/ek100, charades_ego, egtea, state_change, narrations, captions
                                   the same actions in the formats of EK-100, Charades-Ego, EGTEA,
                                   OSCC and PNR, LaViLa's lists, WebVid and CC3M (not with chunks)

It is rendered in DIR.partial and renamed when whole. Stopped? Run the same command again: it goes
on. Already there? It says so and does nothing.

examples:
  python -m egovl prepare synthetic --out data/synthetic
  python -m egovl prepare synthetic --out /tmp/small --train-videos 8 --eval-videos 8
  python -m egovl prepare synthetic --out /tmp/chunked --chunk-sec 5   # clips cross chunks
"""

_HELP = {
    "seed": "seed of everything that is drawn",
    "train_videos": "videos narrated in egoclip.csv, 20 clips each",
    "eval_videos": "held-out videos that egomcq.json asks about",
    "size": "height and width in pixels",
    "chunk_sec": "seconds per file of a video; 600 is EgoVLP's",
    "trimmed_videos": "videos of each split with one more file per action, in EGTEA's layout",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the preparation steps to `parser`, one sub-command each."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    synthetic = steps.add_parser(
        "synthetic",
        help="render a small corpus of true videos, narrations and questions",
        description="Render videos of a hand that moves coloured objects, with true narrations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    synthetic.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    for field in fields(SyntheticConfig):
        synthetic.add_argument(
            "--" + field.name.replace("_", "-"),
            type=int,
            default=field.default,
            metavar="N",
            help=f"{_HELP[field.name]} (default {field.default})",
        )
    synthetic.set_defaults(call=main)
    synthetic.add_argument(
        "--workers", type=int, metavar="N", help="processes that render (default: one a core)"
    )


def main(args: argparse.Namespace) -> int:
    """Run the step that `args` asks for; return the exit status."""
    # Kept out of the top so that --help loads neither numpy nor the encoder.
    from egovl.data.prepare.synthetic import CorpusError, render_corpus

    names = [field.name for field in fields(SyntheticConfig)]
    start_sec = time.monotonic()
    try:
        config = SyntheticConfig(**{name: getattr(args, name) for name in names})
        report = render_corpus(config, args.out, workers=args.workers or os.cpu_count() or 1)
    except (CorpusError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = (
        f"{report.videos} videos, {report.frames} frames, {report.train_clips} training clips, "
        f"{report.inter_video_questions} inter-video and {report.intra_video_questions} "
        "intra-video questions"
    )
    if report.was_there:
        print(f"{report.folder} is already whole, nothing to do: {counts}")
    else:
        print(f"{report.folder}: {counts}, in {time.monotonic() - start_sec:.0f} s")
    return 0
