"""Videos with summaries and the narrations below them (HierVL spec 3.1, 3.2, 3.5, 3.10)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from egovl.data.annotations import ClipTable, ClipTableWriter, Conversion, converted
from egovl.data.datasets.clip_rows import ClipRows
from egovl.data.datasets.egoclip import EgoClip
from egovl.data.datasets.egoclip_table import NUM_NOUNS, NUM_VERBS, add_row
from egovl.data.datasets.long_video import long_clips
from egovl.data.datasets.long_video_configs import ClipsAndSummariesConfig, SummariesConfig
from egovl.data.datasets.summary_hierarchy import narration_finder, read_summaries
from egovl.data.types import ClipRef, RandomSource, Sample, Span

_VERSION = 1  # of what is converted
_SHORT_SEC = (1.5, 3.0)  # of the clip that stands for a summary
_SHORTEST_SEC = 1 / 30

Choose = Callable[[int, int], list[int]]


class Summaries(ClipRows):
    """A long video's clips, its summary as text, narrations as children, the summary's tags.

    In training the narrations are drawn at each visit; clips and narrations are not aligned.

    Raises:
        FileNotFoundError: A table or the video folder is missing.
    """

    label_sizes: Mapping[str, int] = {"verb": NUM_VERBS, "noun": NUM_NOUNS}

    def __init__(self, config: SummariesConfig) -> None:
        config.check_root()
        source = config.hierarchy or config.narrations
        assert source is not None
        options = f"{config.on_bad_row} {config.hierarchy is None} {config.same_source}"
        conversion = Conversion("summaries", _VERSION, options, partial(_convert, config))
        sources = [config.annotations, source]
        super().__init__(config, ClipTable(converted(sources, conversion, config.cache_folder)))
        self._config = config

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, _spread_out)

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        """The sample with narrations drawn at random."""
        return self._sample(index, random.choose)

    def _sample(self, index: int, choose: Choose) -> Sample:
        table, config = self._table, self._config
        text, narrations = table.value("text", index), table.value("narrations", index)
        places = choose_narrations(len(narrations), config.num_narrations, choose)
        children = [narrations[i] for i in places] if places else [text] * config.num_narrations
        span = float(table.start_sec[index]), float(table.end_sec[index])
        long = long_clips(config.source(table.uid(index)), span, config.spread)
        labels = {"verb": table.value("verbs", index), "noun": table.value("nouns", index)}
        return Sample(index, long.clips, (text,), {**labels, **long.labels}, tuple(children))


def choose_narrations(count: int, wanted: int, choose: Choose) -> list[int]:
    """Which of a summary's narrations stand for it, in the order of time (HierVL spec 3.5).

    Args:
        count: Narrations that it has.
        wanted: As many are needed; fewer are taken again and again, in turn.
        choose: ``(count, wanted)`` to as many different places.

    Returns:
        ``wanted`` places, or none where it has no narration: the summary then stands for itself.
    """
    if count >= wanted:
        return sorted(choose(count, wanted))
    return [i % count for i in range(wanted)] if count else []


def _spread_out(count: int, wanted: int) -> list[int]:
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def _convert(config: SummariesConfig, folder: Path) -> None:
    numbers = pa.list_(pa.int16())
    columns = {"text": pa.large_string(), "verbs": numbers, "nouns": numbers}
    columns["narrations"] = pa.list_(pa.large_string())
    writer = ClipTableWriter(folder, columns)
    find = narration_finder(config.hierarchy, config.narrations, same_source=config.same_source)
    for number, row in enumerate(read_summaries(config.annotations, config.on_bad_row)):
        add_row(writer, row, narrations=find(number, row))
    writer.close()


class ClipsAndSummaries:
    """EgoClip's clips, then a short clip for every summary with the summary as its narration.

    Raises:
        FileNotFoundError: A table or the video folder is missing.
    """

    label_sizes: Mapping[str, int] = {"verb": NUM_VERBS, "noun": NUM_NOUNS}

    def __init__(self, config: ClipsAndSummariesConfig) -> None:
        self._config = config
        self._clips = EgoClip(config)
        self._rows = list(read_summaries(config.summaries, config.on_bad_row))
        uids = {row.uid: -1 - i for i, row in enumerate(self._rows)}
        self._numbers = np.array([uids[row.uid] for row in self._rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._clips) + len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        if index < len(self._clips):
            return self._clips[index]
        row = self._rows[index - len(self._clips)]
        numbers = random.Random(f"{self._config.seed} {index - len(self._clips)}")
        before = self._config.legacy_before
        span = short_clip(row.start_sec, row.end_sec, numbers, legacy_before=before)
        return Sample(
            index=index,
            clips=(ClipRef(self._config.source(row.uid), Span(*span)),),
            texts=(row.text,),
            labels={"verb": row.verbs, "noun": row.nouns},
        )

    def chunk_of(self, index: int) -> tuple[int, int]:
        """Video and chunk in which a clip begins; a summary's video has a number of its own."""
        if index < len(self._clips):
            return self._clips.chunk_of(index)
        return int(self._numbers[index - len(self._clips)]), 0

    def chunk_numbers(self, rows: np.ndarray | None = None) -> np.ndarray:
        """``[N]`` int64, equal for samples of one chunk; of some rows, or of all."""
        rows = np.arange(len(self)) if rows is None else rows
        late = rows >= len(self._clips)
        numbers = np.empty(len(rows), dtype=np.int64)
        numbers[~late] = self._clips.chunk_numbers(rows[~late])
        numbers[late] = self._numbers[rows[late] - len(self._clips)]
        return numbers

    @property
    def time_order(self) -> np.ndarray:
        """``[N]`` rows by video, then start; the summaries stand behind."""
        return np.concatenate([self._clips.time_order, np.arange(len(self._clips), len(self))])


def short_clip(
    start_sec: float, end_sec: float, numbers: random.Random, *, legacy_before: bool = False
) -> tuple[float, float]:
    """A clip of 1.5 to 3 seconds inside a summary's time.

    With ``legacy_before`` as published: it begins between 0 and four seconds before the summary.
    """
    if legacy_before:
        start = numbers.uniform(0, start_sec - 4)
        end = start + numbers.uniform(*_SHORT_SEC)
        start = max(start, 0.0)
        return start, max(end, start + _SHORTEST_SEC)
    start = numbers.uniform(start_sec, max(end_sec - _SHORT_SEC[1], start_sec))
    return start, min(start + numbers.uniform(*_SHORT_SEC), max(end_sec, start + _SHORTEST_SEC))
