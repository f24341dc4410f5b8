"""`python -m egovl narrate --video FILE --checkpoint FILE`: a video's timed narrations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_EPILOG = """\
a corpus:
  python -m egovl narrate --config configs/lavila/narrate_tsf_base_gpt2.yaml --run-dir runs/narrate
  (python launchers/narrate.py --shards 32 does it with an array of jobs)

a video of yours:
  python -m egovl narrate --video kitchen.mp4 --checkpoint vclm.pth --tokenizer data/weights/gpt2
  prints a line for every few seconds and writes kitchen.srt and kitchen.html

--checkpoint is a released narrator of LaViLa, a file that `export` or `convert` wrote, or the
folder of a run. GPT-2's tokenizer (vocab.json, merges.txt) comes from --tokenizer; a run knows its
own.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the demo takes."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("a video of yours")
    add = group.add_argument
    add("--video", type=Path, metavar="FILE", help="any video file")
    add("--checkpoint", type=Path, metavar="PATH", help="the narrator's weights")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with vocab.json and merges.txt")
    add("--seconds", type=float, default=4.0, metavar="S", help="longest clip (default: 4)")
    add("--samples", type=int, default=1, metavar="N", help="texts of a clip (default: 1)")
    add("--greedy", action="store_true", help="the likeliest words (default: nucleus sampling)")
    add("--seed", type=int, default=0, help="of the samples (default: 0)")
    add("--out", type=Path, metavar="DIR", help="for the .srt and the page (default: here)")


def main(args: argparse.Namespace) -> int:
    """Narrate a video; 2 is the exit status of wrong words and files."""
    if args.checkpoint is None:
        return _refuse("--checkpoint is missing: which narrator?")
    if not args.video.is_file():
        return _refuse(f"--video {args.video}: there is no such file")
    if args.seconds <= 0 or args.samples < 1:
        return _refuse(f"--seconds {args.seconds} --samples {args.samples}: must be above 0")
    # kept out of the top so that --help loads no torch
    from egovl.data.decode import DecodeError
    from egovl.narration.demo import DemoOptions, narrate_video
    from egovl.narration.subtitles import write_page, write_srt

    options = DemoOptions(args.seconds, args.samples, args.greedy, args.seed)
    try:
        lines = narrate_video(args.video, args.checkpoint, args.tokenizer, options)
        out = args.out or Path()
        stem = out / args.video.stem
        write_srt(lines, stem.with_suffix(".srt"))
        write_page(lines, stem.with_suffix(".html"), args.video.name)
    except (OSError, ValueError, DecodeError) as error:
        return _refuse(error)
    for line in lines:
        print(line)
    print(f"{stem}.srt, {stem}.html: {len(lines)} clips")
    return 0


def _refuse(error: object) -> int:
    print(f"egovl: {error}", file=sys.stderr)
    return 2
