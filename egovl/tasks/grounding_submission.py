"""Predicted spans as the Ego4D NLQ challenge wants them, checked before they are written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.metrics.span_ensemble import ensemble_spans

VERSION = "1.0"
CHALLENGE = "ego4d_nlq_challenge"
_KEYS = ("query_idx", "annotation_uid", "predicted_times", "clip_uid")

QueryKey = tuple[str, str, int]
"""Clip uid, annotation uid, index of the query in the raw list."""


class SubmissionError(ValueError):
    """Predictions that the challenge would refuse, or files that do not fit together."""


@dataclass(frozen=True)
class QueryPrediction:
    """Spans of one query, best first, each ``[start, end]`` or ``[start, end, score]``."""

    clip_uid: str
    annotation_uid: str
    query_idx: int
    times: list[list[float]]

    @property
    def key(self) -> QueryKey:
        """What names the query."""
        return self.clip_uid, self.annotation_uid, self.query_idx

    def record(self) -> dict[str, Any]:
        """The entry of the file."""
        values = self.query_idx, self.annotation_uid, self.times, self.clip_uid
        return dict(zip(_KEYS, values, strict=True))


def check_predictions(
    predictions: Sequence[QueryPrediction],
    durations: Mapping[QueryKey, float] | None = None,
) -> None:
    """Refuse what the challenge would.

    Args:
        predictions: of all queries.
        durations: seconds of each query's clip; every one of these queries needs an answer. None
            where nothing is known of them.

    Raises:
        SubmissionError: a query twice, without a span, or missing; a span that is no stretch of
            its clip.
    """
    seen: set[QueryKey] = set()
    for prediction in predictions:
        name = f"query {prediction.annotation_uid}_{prediction.query_idx}"
        if prediction.key in seen:
            raise SubmissionError(f"{name} of clip {prediction.clip_uid} is there twice")
        seen.add(prediction.key)
        if not prediction.times:
            raise SubmissionError(f"{name} has no span")
        end = math.inf if durations is None else durations.get(prediction.key, -1.0)
        if end < 0:
            raise SubmissionError(f"{name} of clip {prediction.clip_uid} was never asked")
        for time in prediction.times:
            inside = len(time) in (2, 3) and 0 <= time[0] <= time[1] <= end + 1e-3
            if not inside or not all(map(math.isfinite, time)):
                raise SubmissionError(f"{name}: {time} is no stretch of its clip of {end} s")
    missing = sorted(set(durations or ()) - seen)
    if missing:
        clip, annotation, number = missing[0]
        raise SubmissionError(
            f"{len(missing)} queries have no prediction, first {annotation}_{number} of clip {clip}"
        )


def write_submission(path: Path, predictions: Sequence[QueryPrediction]) -> None:
    """Write the file whole, or not at all."""
    content = {
        "version": VERSION,
        "challenge": CHALLENGE,
        "results": [prediction.record() for prediction in predictions],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content), encoding="utf-8")
    os.replace(beside, path)


def read_submission(path: Path) -> list[QueryPrediction]:
    """Predictions of a file of ours or of the published code.

    Raises:
        FileNotFoundError: no such file.
        SubmissionError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no predictions at {path}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [
            QueryPrediction(
                str(entry["clip_uid"]),
                str(entry["annotation_uid"]),
                int(entry["query_idx"]),
                [[float(x) for x in time] for time in entry["predicted_times"]],
            )
            for entry in results
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SubmissionError(f"{path} is no file of predictions: {error!r}") from error


def ensemble_files(paths: Sequence[Path], out: Path) -> int:
    """Join the predictions of several models and write a submission; returns its queries.

    Entries are matched by their keys, not by their place (GroundNLQ spec 8, 15).

    Raises:
        SubmissionError: files of other queries, or without scores.
    """
    models = [{p.key: p for p in read_submission(path)} for path in paths]
    for path, model in zip(paths[1:], models[1:], strict=True):
        differing = sorted(set(models[0]) ^ set(model))
        if differing:
            raise SubmissionError(
                f"{path} and {paths[0]} answer different queries: {len(differing)} are in one "
                f"only, first {differing[0]}"
            )
    joined = []
    for key, prediction in models[0].items():
        times = [model[key].times for model in models]
        bare = [p for p, t in zip(paths, times, strict=True) if any(len(x) < 3 for x in t)]
        if bare:
            raise SubmissionError(
                f"{bare[0]} has spans without scores; write it with submission_scores: true"
            )
        joined.append(
            QueryPrediction(
                prediction.clip_uid,
                prediction.annotation_uid,
                prediction.query_idx,
                ensemble_spans(times),
            )
        )
    check_predictions(joined)
    write_submission(out, joined)
    return len(joined)
