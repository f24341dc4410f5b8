"""EgoMCQ: which of five clips shows the query (EgoVLP)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.configs import EgoMCQConfig
from egovl.data.manifest import keep_known
from egovl.data.types import ClipRef, Sample, Span

INTER_VIDEO, INTRA_VIDEO = 1, 2


class EgoMCQ:
    """Clips of the choices, the query as text, labels ``answer`` and ``type`` (1 inter, 2 intra).

    Raises:
        FileNotFoundError: The questions or the video folder are missing.
        ValueError: A broken question; the message names file and key.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: EgoMCQConfig) -> None:
        config.check_root()
        self._config = config
        questions = _load(config.annotations)
        uids: dict[str, int] = {}
        parsed = keep_known(
            [_question(key, value, config.annotations) for key, value in questions],
            lambda question: question.uids,
            config.manifest,
            "EgoMCQ",
        )
        first = len(parsed[0].spans)
        for question in parsed:
            if len(question.spans) != first:
                raise ValueError(
                    f"{config.annotations}, question {question.key}: "
                    f"{len(question.spans)} choices, the first question has {first}"
                )
        self._video = np.array(
            [[uids.setdefault(uid, len(uids)) for uid in q.uids] for q in parsed], dtype=np.int32
        )
        self._spans = np.array([q.spans for q in parsed])
        self._answers = np.array([(q.answer, q.type) for q in parsed], dtype=np.int16)
        self._uids = list(uids)
        self._queries = [q.query for q in parsed]

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, index: int) -> Sample:
        clips = tuple(
            ClipRef(self._config.source(self._uids[video]), Span(start, end))
            for video, (start, end) in zip(
                self._video[index].tolist(), self._spans[index].tolist(), strict=True
            )
        )
        answer, kind = self._answers[index].tolist()
        return Sample(
            index=index,
            clips=clips,
            texts=(self._queries[index],),
            labels={"answer": answer, "type": kind},
        )

    def chunk_of(self, index: int) -> int:
        """Number of the video of the first choice."""
        return int(self._video[index, 0])


class _Question:
    """One checked entry."""

    def __init__(self, key: str, entry: Mapping[str, Any]) -> None:
        choices = entry["choices"]
        ordered = [choices[str(i)] for i in range(len(choices))]
        self.key = key
        self.uids = [str(choice["video_uid"]) for choice in ordered]
        spans = [
            Span(max(float(c["clip_start"]), 0.0), max(float(c["clip_end"]), 0.0)) for c in ordered
        ]
        self.spans = [(span.start_sec, span.end_sec) for span in spans]
        self.query = str(entry["query"]["clip_text"])
        self.answer, self.type = int(entry["answer"]), int(entry["types"])
        if not 0 <= self.answer < len(ordered):
            raise ValueError(f"answer {self.answer} of {len(ordered)} choices")
        if self.type not in (INTER_VIDEO, INTRA_VIDEO):
            raise ValueError(f"types is {self.type}; it must be 1 (inter) or 2 (intra video)")


def _question(key: str, entry: Mapping[str, Any], path: Path) -> _Question:
    try:
        return _Question(key, entry)
    except KeyError as error:
        raise ValueError(f"{path}, question {key}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, question {key}: {error}") from error


def _load(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Questions in the order of their number."""
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        questions = json.loads(path.read_text(encoding="utf-8") or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not json: {error}") from error
    if not questions:
        raise ValueError(f"{path} has no questions")
    bad = [key for key in questions if not key.isdecimal()]
    if bad:
        raise ValueError(f"{path}: question keys are numbers, found {bad[:3]}")
    return sorted(questions.items(), key=lambda item: int(item[0]))
