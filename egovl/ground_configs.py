"""Command line of `python -m egovl ground`; standard library only, so that --help stays quick."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

EPILOG = """\
The checkpoint is a run folder of a grounder, an exported file, or a released GroundNLQ checkpoint.
Its features come from a dual encoder (--tower; a run folder knows its own from dataset.tower), or
from a file of features [length, width] that were extracted before (--features).

It prints the spans, best first, and writes a page with the video, the spans on a time line and a
picture of each; a click on a span plays it.

examples:
  python -m egovl ground --video kitchen.mp4 --query "where did I put the knife?" --checkpoint RUN
  python -m egovl ground --video kitchen.mp4 --query "..." --checkpoint RUN --tower runs/pretrain/X
  python -m egovl ground --video kitchen.mp4 --query "..." --checkpoint RUN --features kitchen.npy \
--tower CLIP.pt
"""


@dataclass(frozen=True)
class GroundRequest:
    """What to find, where, with which weights."""

    video: Path
    queries: tuple[str, ...]
    checkpoint: Path
    tower: Path | None
    features: Path | None
    out: Path | None
    fps: float | None
    window_frames: int | None
    stride_frames: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--video", type=Path, required=True, metavar="FILE", help="to look in")
    parser.add_argument(
        "--query", action="append", required=True, metavar="TEXT", help="may be given again"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="of a grounder, or its run"
    )
    parser.add_argument(
        "--tower", type=Path, metavar="FILE", help="dual encoder behind the features, or its run"
    )
    parser.add_argument("--features", type=Path, metavar="FILE", help="of the video, .npy")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: VIDEO.ground.html here)"
    )
    parser.add_argument(
        "--fps", type=float, help="frames a second that are looked at (default: the store's, 7.48)"
    )
    for name, default in (("window", "the store's, 4"), ("stride", "the window")):
        parser.add_argument(
            f"--{name}-frames", type=int, metavar="N", help=f"of a feature (default: {default})"
        )


def request_of(args: argparse.Namespace) -> GroundRequest:
    """The request behind parsed words."""
    return GroundRequest(
        video=args.video,
        queries=tuple(args.query),
        checkpoint=args.checkpoint,
        tower=args.tower,
        features=args.features,
        out=args.out,
        fps=args.fps,
        window_frames=args.window_frames,
        stride_frames=args.stride_frames,
    )
