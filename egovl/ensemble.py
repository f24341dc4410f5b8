"""``python -m egovl ensemble``: the answers of several models as one file for the challenge.

Entries are matched by their keys, not by their place (GroundNLQ spec 6.6; 8, 15).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egovl.tasks.grounding_submission import QueryKey, QueryPrediction

EXIT_USAGE = 2

_EPILOG = """\
Each FILE is what an evaluation of a grounder wrote, with a score behind every span:

  python launchers/evaluate.py --config configs/groundnlq/inference_nlq_v2_test.yaml \\
      init.file=WEIGHTS evaluate.nlq.task.submission=a.json

It takes the first four spans of each model for a query, adds means of their first ones where these
lie within two seconds, ranks all by score, drops what overlaps a better one by more than half, and
keeps five. The winner of the 2023 challenge joined three files: two epochs of the base model and
one of the star model; scores are compared as they are, so their models should be trained alike.

All files have to answer the same queries. With --annotations, the questions that were asked, every
one of them needs its answer, inside its clip. Nothing is written unless all of it is right.

examples:
  python -m egovl ensemble a.json b.json c.json --out final.json \\
      --annotations nlq_test_unannotated.json
  python -m egovl ensemble a.json b.json --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="predictions, one file a model"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the submission to write")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="nlq_*.json or lines of json: what was asked, and how long the clips are",
    )
    parser.add_argument(
        "--check", action="store_true", help="join and check everything, write nothing"
    )
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Join the files; 2 is the exit status of wrong words and files."""
    from egovl.tasks.grounding_submission import check_predictions, write_submission

    try:
        _check_words(args)
        durations = None if args.annotations is None else _durations(args.annotations)
        models: dict[Path, list[QueryPrediction]] = {}
        for number, path in enumerate(args.files, 1):
            models[path] = _read_model(path, durations)
            print(f"{number}/{len(args.files)} {path}: {len(models[path])} queries", flush=True)
        joined = join_models(models)
        check_predictions(joined, durations)
        if args.check:
            print(f"{len(joined)} queries of {len(models)} models fit together; nothing written")
        else:
            write_submission(args.out, joined)
            print(f"{args.out}: {len(joined)} queries, five spans each")
    except (OSError, ValueError) as error:
        print(f"egovl: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def _check_words(args: argparse.Namespace) -> None:
    if args.out is None and not args.check:
        raise ValueError("--out FILE is missing: where should the submission go? (or --check)")
    places = [path.resolve() for path in args.files]
    again = next((p for n, p in enumerate(places) if p in places[:n]), None)
    if again is not None:
        raise ValueError(f"{again} is named twice; name each model's file once")
    if len(places) < 2:
        raise ValueError(f"{args.files[0]} is the only file; name those of two models or more")
    if args.out is not None and args.out.resolve() in places:
        raise ValueError(f"--out {args.out} is one of the files to join; name another")


def _durations(path: Path) -> dict[QueryKey, float]:
    """Seconds of the clip of every query that was asked."""
    from egovl.data.datasets.nlq_rows import read_rows

    return {(row.video_id, *row.annotation): row.duration_sec for row in read_rows(path)}


def _read_model(path: Path, durations: Mapping[QueryKey, float] | None) -> list[QueryPrediction]:
    from egovl.tasks.grounding_submission import (
        SubmissionError,
        check_predictions,
        read_submission,
    )

    predictions = read_submission(path)
    try:
        check_predictions(predictions, durations)
    except SubmissionError as error:
        raise SubmissionError(f"{path}: {error}; evaluate that model again") from error
    bare = next((p for p in predictions if any(len(time) < 3 for time in p.times)), None)
    if bare is not None:
        raise SubmissionError(
            f"{path}: query {bare.name} has spans without scores; evaluate that model again with "
            "evaluate.nlq.task.submission_scores=true"
        )
    return predictions


def join_models(models: Mapping[Path, Sequence[QueryPrediction]]) -> list[QueryPrediction]:
    """Five spans of every query, in the order of the first file.

    Raises:
        SubmissionError: files of other queries.
    """
    from egovl.metrics.span_ensemble import ensemble_spans
    from egovl.tasks.grounding_submission import QueryPrediction, SubmissionError

    (first, predictions), *others = models.items()
    by_key = {path: {p.key: p for p in own} for path, own in models.items()}
    for path, _ in others:
        for has, lacks in ((first, path), (path, first)):
            missing = [p for key, p in by_key[has].items() if key not in by_key[lacks]]
            if missing:
                raise SubmissionError(
                    f"{lacks} lacks {len(missing)} queries that {has} answers, first "
                    f"{missing[0].name} of clip {missing[0].clip_uid}; evaluate both models on "
                    "the same annotations"
                )
    return [
        QueryPrediction(
            one.clip_uid,
            one.annotation_uid,
            one.query_idx,
            ensemble_spans([model[one.key].times for model in by_key.values()]),
        )
        for one in predictions
    ]
