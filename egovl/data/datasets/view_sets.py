"""The retriever's six evaluation sets, as features (Egoinstructor spec 3.6).

Three kinds of question: ``pairs``, row i belongs to column i (YouCook2, Charades-Ego); ``choice``,
which of K clips (EgoLearn, EgoMCQ, EgoSumm); ``graded``, many sentences fit (EK-100).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from egovl.data.collate import collate
from egovl.data.configs import LoaderConfig
from egovl.data.datasets.epic_rows import NUM_NOUNS, NUM_VERBS, load_rows, load_sentences
from egovl.data.datasets.second_features import SecondFeatures
from egovl.data.datasets.view_configs import ViewSetConfig
from egovl.data.relevancy import load_relevancy
from egovl.data.second_sampling import evaluation_seconds
from egovl.data.types import Batch, Label, RandomSource, Sample
from egovl.data.word_tokens import clean_narration

Kind = Literal["pairs", "choice", "graded"]
EGO, EXO = 0, 1


@dataclass(frozen=True)
class FeatureClip:
    """A stretch of a video's features; `side` says which store has them."""

    video: str
    span_sec: tuple[float, float]
    side: int = EGO


@dataclass(frozen=True)
class Question:
    """One sample: its clips, and a text where the query is one."""

    clips: tuple[FeatureClip, ...]
    text: str | None
    labels: Mapping[str, Label] = field(default_factory=dict[str, Label])


class ViewSet:
    """Questions of an evaluation set.

    Batch: video ``[B, K, T, D]``, tokens ``[B, L]`` where queries are texts, labels. A query that
    is a clip stands first among the K.
    """

    def __init__(
        self, kind: Kind, questions: Sequence[Question], config: ViewSetConfig, label_sizes: Any
    ) -> None:
        self.kind: Kind = kind
        self.benchmark = config.benchmark
        self.query_is_clip = questions[0].text is None
        self.label_sizes: Mapping[str, int] = label_sizes
        self.relevancy: np.ndarray | None = None
        self._questions = questions
        self._context = config.context_length
        if self._context is None and config.benchmark in ("ek100", "egomcq"):
            self._context = 77
        ego = SecondFeatures(config.features)
        self._stores = (
            ego,
            ego if not config.exo_features else SecondFeatures(config.exo_features),
        )

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Sample:
        question = self._questions[index]
        return Sample(index, (), (question.text or "",), question.labels)

    def chunk_of(self, index: int) -> str:
        """Video of the first clip."""
        return self._questions[index].clips[0].video

    def read_item(
        self, index: int, config: LoaderConfig, random: RandomSource | None
    ) -> tuple[int, list[Tensor]]:
        """Features of a question's clips."""
        found = []
        for clip in self._questions[index].clips:
            store = self._stores[clip.side]
            seconds = evaluation_seconds(clip.span_sec, config.num_frames, store.length(clip.video))
            found.append(store.rows(clip.video, seconds))
        return index, found

    def join_items(self, items: Sequence[tuple[int, list[Tensor]]], tokenizer: Any) -> Batch:
        """Questions as a batch."""
        chosen = [self[index] for index, _ in items]
        texts = [sample.texts[0] for sample in chosen]
        batch = collate(
            chosen,
            [features for _, features in items],
            texts,
            None if self.query_is_clip else tokenizer,
            self.label_sizes,
        )
        if batch.tokens is not None:
            batch.tokens = self._shortened(batch.tokens, tokenizer)
        return batch

    def _shortened(self, tokens_BL: Tensor, tokenizer: Any) -> Tensor:
        length = self._context
        if length is None or length >= tokens_BL.shape[1]:
            return tokens_BL
        cut = tokens_BL[:, :length].clone()
        is_long = tokens_BL[:, length] != 0
        if not getattr(tokenizer, "legacy_truncate", False):
            cut[is_long, -1] = tokenizer.end_id
        return cut


def build_view_set(config: ViewSetConfig) -> ViewSet:
    """Read a set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is of another set; names file and record.
    """
    if config.benchmark == "ek100":
        return _epic(config)
    if not config.annotations.is_file():
        raise FileNotFoundError(f"annotations {config.annotations} does not exist")
    records = json.loads(config.annotations.read_text(encoding="utf-8"))
    kind, read = _READERS[config.benchmark]
    questions = []
    for number in range(len(records)):
        try:
            questions.append(read(records[str(number)]))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{config.annotations}, record {number}: {error!r} is missing or no such value; "
                f"is it the file of {config.benchmark}?"
            ) from error
    if not questions:
        raise ValueError(f"{config.annotations} has no records")
    return ViewSet(kind, questions, config, {})


def _youcook(record: Mapping[str, Any]) -> Question:
    span = (record["start_second"], record["end_second"])
    clip = FeatureClip(f"{record['task']}/{record['video_id']}", span, EXO)
    return Question((clip,), record["text"])


def _charades(record: Mapping[str, Any]) -> Question:
    clips = tuple(
        FeatureClip(
            record[f"{name}_vid"],
            (record[f"{name}_start_second"], record[f"{name}_end_second"]),
            side,
        )
        for side, name in ((EGO, "ego"), (EXO, "exo"))
    )
    return Question(clips, None)


def _choices(
    record: Mapping[str, Any], clip_of: Callable[[Mapping[str, Any]], FeatureClip]
) -> list[FeatureClip]:
    choices = record["choices"]
    return [clip_of(choices[str(number)]) for number in range(len(choices))]


def _answer(record: Mapping[str, Any]) -> dict[str, Label]:
    return {"answer": int(record["answer"]), "type": int(record["types"])}


def _egolearn(record: Mapping[str, Any]) -> Question:
    query_side = EGO if int(record["types"]) == 1 else EXO

    def clip(entry: Mapping[str, Any], side: int) -> FeatureClip:
        return FeatureClip(entry["video_id"], (entry["start_second"], entry["end_second"]), side)

    choices = _choices(record, lambda entry: clip(entry, 1 - query_side))
    return Question((clip(record["query"], query_side), *choices), None, _answer(record))


def _egomcq(record: Mapping[str, Any]) -> Question:
    choices = _choices(
        record,
        lambda c: FeatureClip(c["video_uid"], (float(c["clip_start"]), float(c["clip_end"]))),
    )
    return Question(tuple(choices), clean_narration(record["query"]["clip_text"]), _answer(record))


def _egosumm(record: Mapping[str, Any]) -> Question:
    choices = _choices(record, lambda c: FeatureClip(c["vid"], (c["start_sec"], c["end_sec"])))
    return Question(tuple(choices), record["query"]["summary_text"], _answer(record))


_READERS: Mapping[str, tuple[Kind, Callable[[Mapping[str, Any]], Question]]] = {
    "youcook": ("pairs", _youcook),
    "charades_ego": ("pairs", _charades),
    "egolearn": ("choice", _egolearn),
    "egomcq": ("choice", _egomcq),
    "egosumm": ("choice", _egosumm),
}


def _epic(config: ViewSetConfig) -> ViewSet:
    rows = load_rows(config.annotations)
    assert config.sentences is not None
    sentences = load_sentences(config.sentences)
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.narration_id, place)
    unknown = [name for name, _ in sentences if name not in first]
    if unknown:
        raise ValueError(f"{config.sentences}: {unknown[0]} is not in {config.annotations}")
    column = {first[name]: number for number, (name, _) in enumerate(sentences)}
    questions = [
        Question(
            (FeatureClip(row.video_id, (row.start_sec, row.stop_sec)),),
            clean_narration(row.narration),
            {
                "row": place,
                "sentence": column.get(place, -1),
                "verb": (row.verb,),
                "noun": row.nouns,
            },
        )
        for place, row in enumerate(rows)
    ]
    found = ViewSet("graded", questions, config, {"verb": NUM_VERBS, "noun": NUM_NOUNS})
    if config.relevancy is not None:
        found.relevancy = load_relevancy(config.relevancy, (len(rows), len(sentences)))
    return found
