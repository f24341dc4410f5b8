"""EK-100 multi-instance retrieval: clips and the unique sentences that are searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from egovl.data.datasets.configs import EpicRetrievalConfig
from egovl.data.datasets.epic_rows import (
    NUM_NOUNS,
    NUM_VERBS,
    check_root,
    clip_of,
    load_config_rows,
    load_sentences,
)
from egovl.data.relevancy import load_relevancy, overlap
from egovl.data.types import RandomSource, Sample


class EpicRetrieval:
    """A clip with its own narration; in training with a sentence drawn among the relevant ones.

    Labels: ``row``; ``verb`` and ``noun``, 0/1 over the classes; ``sentence``, the column of the
    relevancy matrix if this row is the first with that sentence's narration id, else -1;
    ``relevancy`` of the text to the clip.

    Raises:
        FileNotFoundError: A file or the video folder is missing.
        ValueError: A sentence whose narration id no row has.
    """

    label_sizes: Mapping[str, int] = {"verb": NUM_VERBS, "noun": NUM_NOUNS}

    def __init__(self, config: EpicRetrievalConfig) -> None:
        check_root(config.video_root)
        self._config = config
        self._rows = load_config_rows(config)
        sentences = load_sentences(config.sentences)
        self._sentences = [text for _, text in sentences]
        first: dict[str, int] = {}
        for place, row in enumerate(self._rows):
            first.setdefault(row.narration_id, place)
        unknown = [name for name, _ in sentences if name not in first]
        if config.manifest is not None:
            sentences = [(name, text) for name, text in sentences if name in first]
            self._sentences = [text for _, text in sentences]
        elif unknown:
            raise ValueError(
                f"{config.sentences}: {len(unknown)} narration ids are not in "
                f"{config.annotations}, first {unknown[0]}; the two belong to different splits"
            )
        self.sentence_rows = np.array([first[name] for name, _ in sentences])
        self._sentence_of = {row: k for k, row in enumerate(self.sentence_rows.tolist())}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, self._rows[index].narration, 1.0)

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        """The clip with one of its relevant sentences, or its own if none is relevant enough."""
        relevancy = self._relevancy_of(index)
        candidates = np.flatnonzero(relevancy > self._config.min_relevancy)
        if not len(candidates):
            return self[index]
        chosen = int(candidates[random.integer(0, len(candidates) - 1)])
        return self._sample(index, self._sentences[chosen], float(relevancy[chosen]))

    def chunk_of(self, index: int) -> str:
        """Video of a row."""
        return self._rows[index].video_id

    @cached_property
    def relevancy(self) -> np.ndarray | None:
        """The released matrix ``[V, S]``, if one is configured."""
        path = self._config.relevancy
        shape = len(self._rows), len(self._sentences)
        return None if path is None else load_relevancy(path, shape)

    def _sample(self, index: int, text: str, relevancy: float) -> Sample:
        row = self._rows[index]
        labels = {
            "row": index,
            "verb": (row.verb,),
            "noun": row.nouns,
            "sentence": self._sentence_of.get(index, -1),
            "relevancy": relevancy,
        }
        return Sample(index, (clip_of(self._config, row),), (text,), labels)

    def _relevancy_of(self, index: int) -> np.ndarray:
        """Relevancy of every sentence to a clip, ``[S]``."""
        if self.relevancy is not None:
            return np.asarray(self.relevancy[index])
        verbs, nouns = self._sentence_classes
        row = self._rows[index]
        return (
            overlap(_one_hot([row.verb], NUM_VERBS), verbs)
            + overlap(_one_hot(row.nouns, NUM_NOUNS), nouns)
        ) / 2

    @cached_property
    def _sentence_classes(self) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._rows[place] for place in self.sentence_rows.tolist()]
        return (
            np.stack([_one_hot([row.verb], NUM_VERBS) for row in rows]),
            np.stack([_one_hot(row.nouns, NUM_NOUNS) for row in rows]),
        )


def _one_hot(classes: Sequence[int], size: int) -> np.ndarray:
    hot = np.zeros(size, dtype=np.float32)
    hot[list(classes)] = 1
    return hot
