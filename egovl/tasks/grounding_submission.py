"""Predicted spans as the Ego4D NLQ challenge wants them, checked before they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.atomic import replacing

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

    @property
    def name(self) -> str:
        """The query's id, as annotation files have it."""
        return f"{self.annotation_uid}_{self.query_idx}"

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
        name = f"query {prediction.name}"
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
    with replacing(path) as file:
        file.write(json.dumps(content))


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
        predictions = [
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
    if not predictions:
        raise SubmissionError(f"{path} has no predictions: its `results` are empty")
    return predictions
