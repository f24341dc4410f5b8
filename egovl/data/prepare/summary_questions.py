"""Build SummaryMCQ from Ego4D's narration json (HierVL spec 3.3): one question for each summary.

Wrong choices are summaries of other videos, drawn uniformly; places of the answer are equally
frequent. Seeded, so that the same files give the same questions; the released file has its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egoclip_table import COLUMNS
from egovl.data.datasets.summary_hierarchy import read_summaries

SUMMARY, NUM_CHOICES = 3, 5


@dataclass(frozen=True, slots=True)
class SummarySpan:
    """One summary of a video, seconds."""

    video_uid: str
    start_sec: float
    end_sec: float
    text: str


def write_summary_mcq(
    narrations: Path, out: Path, *, seen: Collection[Path] = (), seed: int = 0
) -> int:
    """Write one question for each summary of a video that no training table holds.

    Args:
        narrations: Ego4D's json, ``videos[uid].summaries[]`` of start_time, end_time, text.
        out: The questions.
        seen: egoclip.csv and egosummary_full.csv, whose videos are left out.
        seed: Of wrong choices and places.

    Returns:
        How many questions.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A file that cannot be read, or too few videos.
    """
    trained = {row.uid for path in seen for row in read_summaries(path)}
    spans = [span for span in load_summaries(narrations) if span.video_uid not in trained]
    rng = np.random.default_rng(seed)
    answers = rng.permutation(np.arange(len(spans)) % NUM_CHOICES).tolist()
    questions: dict[str, Any] = {}
    for number, (span, answer) in enumerate(zip(spans, answers, strict=True)):
        others = [s for s in spans if s.video_uid != span.video_uid]
        if len(others) < NUM_CHOICES - 1:
            raise ValueError(f"{narrations}: {span.video_uid} has too few other videos beside it")
        drawn = rng.choice(len(others), NUM_CHOICES - 1, replace=False).tolist()
        chosen = [others[i] for i in drawn]
        chosen.insert(answer, span)
        questions[str(number)] = {
            "answer": answer,
            "types": SUMMARY,
            "query": _record(span),
            "choices": {str(k): _record(choice) for k, choice in enumerate(chosen)},
        }
    unfinished = out.with_name(f".{out.name}")
    unfinished.write_text(json.dumps(questions), encoding="utf-8")
    unfinished.replace(out)
    return len(questions)


def load_summaries(path: Path) -> list[SummarySpan]:
    """Summaries of all videos, in the file's order; empty ones are left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No such layout; names file and video.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no json with `videos`: {error}") from error
    found = []
    for uid, video in videos.items():
        for entry in video.get("summaries", ()):
            try:
                start, end = float(entry["start_time"]), float(entry["end_time"])
                span = SummarySpan(uid, start, end, str(entry["text"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, video {uid}: a summary lacks {error}") from error
            if start < end and span.text:
                found.append(span)
    return found


def _record(span: SummarySpan) -> dict[str, Any]:
    values = {
        "video_uid": span.video_uid,
        "narration_source": "raw",
        "clip_start": span.start_sec,
        "clip_end": span.end_sec,
        "clip_text": span.text,
        "tag_verb": "[]",
        "tag_noun": "[]",
    }
    return {name: values.get(name) for name in COLUMNS if name != "clip_idx"}
