"""SummaryMCQ: which of five long videos a summary tells of (HierVL spec 3.3, 6.1).

A sample is a video that occurs among the choices, not a question: the same video is a choice of
about five questions, and is read and encoded once. The questions stand in ``questions``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egomcq import load_questions
from egovl.data.datasets.long_video import long_clips
from egovl.data.datasets.long_video_configs import SummaryMCQConfig
from egovl.data.types import Sample

SUMMARY = 3


@dataclass(frozen=True)
class Questions:
    """What is asked: ``queries`` [Q] texts, ``choices`` [Q, C] samples, ``answers`` [Q] columns."""

    queries: list[str]
    choices: np.ndarray
    answers: np.ndarray


class SummaryMCQ:
    """Videos of the choices, each once.

    Raises:
        FileNotFoundError: The questions or the video folder are missing.
        ValueError: A broken question; the message names file and key.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: SummaryMCQConfig) -> None:
        config.check_root()
        self._config = config
        places: dict[tuple[str, float, float], int] = {}
        queries, choices, answers = [], [], []
        for key, entry in load_questions(config.annotations):
            query, videos, answer = _question(key, entry, config.annotations)
            queries.append(query)
            choices.append([places.setdefault(video, len(places)) for video in videos])
            answers.append(answer)
        counts = {len(row) for row in choices}
        if len(counts) > 1:
            raise ValueError(f"{config.annotations}: questions with {sorted(counts)} choices")
        self._videos = list(places)
        self.questions = Questions(queries, np.array(choices), np.array(answers))

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> Sample:
        uid, start, end = self._videos[index]
        long = long_clips(self._config.source(uid), (start, end), self._config.spread)
        return Sample(index, long.clips, ("",), long.labels)

    def chunk_of(self, index: int) -> str:
        """The video's id."""
        return self._videos[index][0]


def _question(
    key: str, entry: Mapping[str, Any], path: Path
) -> tuple[str, list[tuple[str, float, float]], int]:
    try:
        choices = entry["choices"]
        videos = []
        for number in range(len(choices)):
            choice = choices[str(number)]
            start, end = max(float(choice["clip_start"]), 0.0), float(choice["clip_end"])
            if not start < end:
                raise ValueError(f"choice {number}: {start} .. {end} s holds no time")
            videos.append((str(choice["video_uid"]), start, end))
        answer, kind = int(entry["answer"]), int(entry["types"])
        if not 0 <= answer < len(videos):
            raise ValueError(f"answer {answer} of {len(videos)} choices")
        if kind != SUMMARY:
            raise ValueError(f"types is {kind}; a question on summaries has {SUMMARY}")
        return str(entry["query"]["clip_text"]), videos, answer
    except KeyError as error:
        raise ValueError(f"{path}, question {key}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, question {key}: {error}") from error
