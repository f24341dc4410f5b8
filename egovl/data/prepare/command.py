"""Command line of the preparation steps: `python -m egovl prepare STEP`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from egovl.config import ConfigError, build, dump, find_context, load_tree
from egovl.data.prepare import queries_command
from egovl.data.prepare.configs import SyntheticConfig, VideosConfig

EXIT_USAGE = 2

_SYNTHETIC_EPILOG = """\
what it makes:
  DIR/videos/<video_uid>/<k>.mp4   h264, 30 fps, keyframe every 15 frames, no B-frames
  DIR/egoclip.csv                  training narrations, in EgoClip's format
  DIR/egomcq.json                  questions over held-out videos, in EgoMCQ's format
  DIR/manifest.jsonl               the videos, their files and frames
  DIR/summaries                    summaries, questions on them, classes of whole videos, coming
                                   actions, in the formats of HierVL, HowTo100M and Ego4D's LTA
  DIR/corpus.json                  counts and options; verbs and nouns behind the tags; chance
  DIR/ek100, charades_ego, egtea, state_change, narrations, captions
                                   the same actions in the formats of EK-100, Charades-Ego, EGTEA,
                                   OSCC and PNR, LaViLa's lists, WebVid and CC3M (not with chunks)
  DIR/views                        features and prompts of paired views, in Egoinstructor's formats

It is rendered in DIR.partial and renamed when whole. Stopped? Run the same command again: it goes
on. Already there? It says so and does nothing.

examples:
  python -m egovl prepare synthetic --out data/synthetic
  python -m egovl prepare synthetic --out /tmp/small --train-videos 8 --eval-videos 8
  python -m egovl prepare synthetic --out /tmp/chunked --chunk-sec 5   # clips cross chunks
"""

_VIDEOS_EPILOG = """\
what it makes, below out:
  the chunks, named as layout says; manifest.jsonl, which recipes take as dataset.manifest; and
  failed.jsonl, videos that could not be made, and why. A bad video is reported and left out.

Stopped? Run the same command again: it goes on at the first chunk that is missing. Failed videos
are tried again. As an array job: python launchers/prepare_data.py --shards 64

examples:
  python -m egovl prepare videos --config configs/prepare/ego4d_300s.yaml
  python -m egovl prepare videos --config configs/prepare/ego4d_300s.yaml --subset 10
  python -m egovl prepare videos --config configs/prepare/ek100.yaml source=/data/EPIC workers=8
"""

_ANNOTATIONS_EPILOG = """\
Runs read annotations from Arrow files, mapped by all processes. They are made when a run first
needs them; made here, no job of a cluster waits for it.

examples:
  python -m egovl prepare annotations --config configs/egovlp/pretrain.yaml
  python -m egovl prepare annotations --config configs/lavila/pretrain_tsf_base.yaml
"""

_NOUN_VERB_EPILOG = """\
Tags each narration with EgoVLP's noun and verb classes: every word, or run of words, that the
taxonomy lists (Ego4D's narration_noun_taxonomy.csv and narration_verb_taxonomy.csv).

examples:
  python -m egovl prepare noun_verb --nouns nouns.csv --verbs verbs.csv --egoclip new.csv --out \
tagged.csv
"""

_SYNTHETIC_HELP = {
    "seed": "seed of everything that is drawn",
    "train_videos": "videos narrated in egoclip.csv, 20 clips each",
    "eval_videos": "held-out videos that egomcq.json asks about",
    "size": "height and width in pixels",
    "chunk_sec": "seconds per file of a video; 600 is EgoVLP's",
    "trimmed_videos": "videos of each split with one more file per action, in EGTEA's layout",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the preparation steps to `parser`, one sub-command each."""
    parser.add_argument(
        "--check", action="store_true", help="only say whether the words and files are right"
    )
    parser.add_argument("--no-files", action="store_true", help="with --check: not the files")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    _add_synthetic(steps)
    videos = _add_step(steps, "videos", "resize and chunk videos", _VIDEOS_EPILOG, make_videos)
    _add_config(videos, "configs/prepare/*.yaml")
    videos.add_argument("--subset", type=int, metavar="N", help="only the first N videos")
    videos.add_argument("--shard", metavar="I/N", help="only part I (from 0) of N")
    text = "convert a recipe's annotation files to Arrow before its first run"
    tables = _add_step(steps, "annotations", text, _ANNOTATIONS_EPILOG, make_annotations)
    _add_config(tables, "a recipe")
    text = "Ego4D's NLQ json and EgoClip's narrations as rows for grounding"
    queries = _add_step(
        steps, "queries", text, queries_command.EPILOG, queries_command.make_queries
    )
    queries_command.add_arguments(queries)
    text = "tag narrations with EgoVLP's noun and verb classes"
    tags = _add_step(steps, "noun_verb", text, _NOUN_VERB_EPILOG, make_noun_verb)
    for flag, what in (
        ("--nouns", "taxonomy of nouns, csv"),
        ("--verbs", "taxonomy of verbs, csv"),
        ("--egoclip", "table in EgoClip's format, whose tags are made anew"),
        ("--out", "the table to write"),
    ):
        tags.add_argument(flag, type=Path, required=True, metavar="FILE", help=what)
    _add_summary_steps(steps)


def _add_step(
    steps: argparse._SubParsersAction, name: str, text: str, epilog: str, call: object
) -> argparse.ArgumentParser:
    step = steps.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    step.set_defaults(call=call)
    return step


def _add_config(step: argparse.ArgumentParser, what: str) -> None:
    step.add_argument("--config", type=Path, required=True, metavar="FILE", help=what)
    step.add_argument("overrides", nargs="*", metavar="key=value", help="values to change")


def _add_synthetic(steps: argparse._SubParsersAction) -> None:
    text = "render a small corpus of true videos, narrations and questions"
    synthetic = _add_step(steps, "synthetic", text, _SYNTHETIC_EPILOG, make_synthetic)
    synthetic.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    for field in fields(SyntheticConfig):
        synthetic.add_argument(
            "--" + field.name.replace("_", "-"),
            type=int,
            default=field.default,
            metavar="N",
            help=f"{_SYNTHETIC_HELP[field.name]} (default {field.default})",
        )
    synthetic.add_argument(
        "--workers", type=int, metavar="N", help="processes that render (default: one a core)"
    )
    synthetic.add_argument(
        "--with",
        dest="parts",
        action="append",
        choices=("queries",),
        default=[],
        help="more to make of a corpus, new or there: queries: clips of minutes and questions",
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


def make_synthetic(args: argparse.Namespace) -> int:
    """Render the corpus; return the exit status."""
    # Kept out of the top so that --help loads neither numpy nor the encoder.
    from egovl.data.prepare.synthetic import CorpusError, render_corpus

    names = [field.name for field in fields(SyntheticConfig)]
    start_sec = time.monotonic()
    try:
        config = SyntheticConfig(**{name: getattr(args, name) for name in names})
        if args.check:
            return 0
        report = render_corpus(config, args.out, workers=args.workers or os.cpu_count() or 1)
        if "queries" in args.parts:
            from egovl.data.prepare.synthetic_plan import plan_videos
            from egovl.data.prepare.synthetic_queries import write_queries

            print(f"{write_queries(plan_videos(config), args.out, config.seed)}: clips, questions")
    except (CorpusError, ValueError) as error:
        return _refuse(error)
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


def load_videos_config(args: argparse.Namespace) -> VideosConfig:
    """The yaml with the words and flags of the command line.

    Raises:
        ConfigError: Something is wrong with one of them.
    """
    words = list(args.overrides)
    if args.subset is not None:
        words.append(f"subset={args.subset}")
    if args.shard is not None:
        shard, slash, shards = args.shard.partition("/")
        if not (slash and shard.isdecimal() and shards.isdecimal()):
            raise ConfigError(f"--shard {args.shard}: write I/N, as 0/8")
        words += [f"shard={shard}", f"shards={shards}"]
    tree = load_tree(args.config, words)
    try:
        return build(VideosConfig, tree, find_context(args.config))
    except ConfigError as error:
        raise ConfigError(f"{args.config}: {error}") from error


def make_videos(args: argparse.Namespace) -> int:
    """Make the chunks of a share; return the exit status."""
    from egovl.engine.signals import StopRequest
    from egovl.work import Done, rank_of, report_progress, run_work

    stop = StopRequest().install()
    try:
        config = load_videos_config(args)
    except ConfigError as error:
        return _refuse(error)
    if args.check:
        if not args.no_files and not config.source.is_dir():
            return _refuse(f"source {config.source} is not a folder; set it in configs/paths.yaml")
        sys.stdout.write(dump(config))
        return 0
    from egovl.data.prepare.videos import FAILED, VideosReport, prepare_videos, with_rank

    def should_stop() -> bool:
        report_progress(0)  # asked all the time: a long video is no silence
        return stop.requested()

    def work() -> Done:
        share = with_rank(config, *rank_of())
        report = prepare_videos(share, should_stop)
        _print(report)
        metrics = {"made": report.made, "were_there": report.were_there}
        metrics["failed"] = len(report.failed)
        if report.failed and not report.made + report.were_there:
            raise RuntimeError(f"not one video could be made: {next(iter(report.failed.values()))}")
        return Done(report.left == 0, metrics)

    def _print(report: VideosReport) -> None:
        counts = f"{report.made} made, {report.were_there} were there, {len(report.failed)} failed"
        print(f"{config.out}: {counts}" + (f", {report.left} left" if report.left else ""))
        for name, error in report.failed.items():
            print(f"  {name}: {error}")
        if report.manifest is not None:
            print(f"manifest {report.manifest}; what failed: {config.out / FAILED}")

    return run_work(work)


def make_annotations(args: argparse.Namespace) -> int:
    """Convert what a recipe reads; return the exit status."""
    from egovl.recipe import load_recipe, stages

    try:
        recipe = load_recipe(args.config, args.overrides)
        for name, stage in () if args.check else stages(recipe):
            started = time.monotonic()
            dataset = stage.dataset.build()
            seconds = time.monotonic() - started
            print(f"{name}: {stage.dataset.name}, {len(dataset)} samples, {seconds:.1f} s")
    except (ConfigError, ValueError, OSError) as error:
        return _refuse(error)
    return 0


def make_noun_verb(args: argparse.Namespace) -> int:
    """Tag the narrations of a table; return the exit status."""
    from egovl.data.noun_verb import load_taxonomy, tag_table

    try:
        nouns, verbs = load_taxonomy(args.nouns), load_taxonomy(args.verbs)
        if args.check:
            return 0
        counts = tag_table(args.egoclip, args.out, nouns, verbs)
    except (ValueError, OSError) as error:
        return _refuse(error)
    print(
        f"{args.out}: {counts.rows} narrations, {counts.with_noun} with a noun, "
        f"{counts.with_verb} with a verb, {counts.with_both} with both"
    )
    return 0


def _refuse(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE
