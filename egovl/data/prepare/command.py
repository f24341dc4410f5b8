"""Command line of the preparation steps: `python -m egovl prepare synthetic --out DIR`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from egovl.data.prepare.configs import SyntheticConfig

_EPILOG = """\
what it makes:
  DIR/videos/<video_uid>/<k>.mp4   h264, 30 fps, keyframe every 15 frames, no B-frames
  DIR/egoclip.csv                  training narrations, in EgoClip's format
  DIR/egomcq.json                  questions over held-out videos, in EgoMCQ's format
  DIR/summaries                    summaries, questions on them, classes of whole videos, coming
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
    _add_summary_steps(steps)
    synthetic.add_argument(
        "--workers", type=int, metavar="N", help="processes that render (default: one a core)"
    )


def _add_summary_steps(steps: Any) -> None:
    hierarchy = steps.add_parser(
        "hierarchy", help="which narrations of egoclip.csv lie below which summary"
    )
    hierarchy.add_argument("--summaries", type=Path, required=True, help="egosummary_full.csv")
    hierarchy.add_argument("--narrations", type=Path, required=True, help="egoclip.csv")
    hierarchy.add_argument("--out", type=Path, required=True, metavar="FILE", help="a json")
    hierarchy.add_argument(
        "--same-source", action="store_true", help="only narrations of the summary's own pass"
    )
    hierarchy.set_defaults(call=_hierarchy)
    questions = steps.add_parser(
        "summary-mcq", help="questions on summaries of videos that no training table holds"
    )
    questions.add_argument(
        "--narrations", type=Path, required=True, help="Ego4D's json with videos[uid].summaries"
    )
    questions.add_argument(
        "--seen", type=Path, nargs="*", default=[], help="egoclip.csv, egosummary_full.csv"
    )
    questions.add_argument("--out", type=Path, required=True, metavar="FILE", help="a json")
    questions.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    questions.set_defaults(call=_questions)


def _hierarchy(args: argparse.Namespace) -> int:
    from egovl.data.datasets.summary_hierarchy import write_hierarchy

    def write() -> int:
        return write_hierarchy(
            args.summaries, args.narrations, args.out, same_source=args.same_source
        )

    return _write(args.out, write, "summaries")


def _questions(args: argparse.Namespace) -> int:
    from egovl.data.prepare.summary_questions import write_summary_mcq

    def write() -> int:
        return write_summary_mcq(args.narrations, args.out, seen=args.seen, seed=args.seed)

    return _write(args.out, write, "questions")


def _write(out: Path, write: Callable[[], int], what: str) -> int:
    try:
        print(f"{out}: {write()} {what}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


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
