"""Queries over clips with stored features: rows to samples, samples to batches.

Letters: V videos of a batch, B queries, T feature steps, E D feature widths, L tokens, N spans of a
query, K classes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egovl.data.batch_reader import BatchPlan, LoadedBatch
from egovl.data.configs import LoaderConfig
from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.data.datasets.nlq_narrations import jitter_span
from egovl.data.datasets.nlq_rows import QueryRow, read_rows, split_bad_rows
from egovl.data.decode import DecodeError
from egovl.data.features import FeatureStore, open_features
from egovl.data.randomness import REPLACEMENT, VISIT, SampleRandom
from egovl.data.types import Batch, RandomSource, Sample

log = logging.getLogger(__name__)

_SHOWN = 5
_MAX_REPLACEMENTS = 20
_DRIFT = 0.002  # a stated stride this far from the features' own is worth a word


class FeatureError(DecodeError):
    """Features of a sample that are missing, damaged or no numbers."""

    def __init__(self, path: Path | str, span: None, reason: str) -> None:
        super().__init__(path, span, reason)
        self.args = (f"features in {path}: {reason}",)

    def __reduce__(self) -> tuple[type[FeatureError], tuple[Path, None, str]]:
        return FeatureError, (self.path, None, self.reason)


@dataclass(frozen=True, slots=True)
class QueryItem:
    """One query with everything a model needs.

    Attributes:
        index: row of the dataset.
        row: its annotation.
        features: ``[T, E]`` float32 of the clip.
        tokens: ``[L, D]`` float32 of the text.
        spans: ``[N, 2]`` float64 in feature steps; None where nobody tells.
        classes: ``[N, K]`` int64 0/1; None likewise.
        step_sec: seconds from one feature to the next.
        window_sec: seconds behind one feature.
    """

    index: int
    row: QueryRow
    features: np.ndarray
    tokens: np.ndarray
    spans: np.ndarray | None
    classes: np.ndarray | None
    step_sec: float
    window_sec: float


@dataclass(slots=True, kw_only=True)
class QueryBatch(Batch):
    """A batch of queries; rows follow ``index``, those of ``features`` the distinct videos.

    Attributes:
        features: ``[V, T, E]``, zero behind a video's end.
        feature_mask: ``[V, T]``.
        video_of_row: ``[B]`` the video of each query.
        text: ``[B, L, D]``, padded to the longest text of the batch.
        text_mask: ``[B, L]``.
        spans: ``[B, N, 2]`` float64 in feature steps.
        span_counts: ``[B]``; 0 also where nobody tells.
        span_classes: ``[B, N, K]``.
    """

    features: Tensor
    feature_mask: Tensor
    video_of_row: Tensor
    text: Tensor
    text_mask: Tensor
    spans: Tensor
    span_counts: Tensor
    span_classes: Tensor

    def __getitem__(self, rows: slice) -> QueryBatch:
        """Some rows, as views; all videos stay."""
        return self._changed(lambda name, x: x if name in _OF_VIDEOS else x[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> QueryBatch:
        return self._changed(lambda name, x: change(x))

    def _changed(self, change: Callable[[str, Tensor], Tensor]) -> QueryBatch:
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        labels = {name: change(name, label) for name, label in parts.pop("labels").items()}
        tensors: dict[str, Any] = {n: None if x is None else change(n, x) for n, x in parts.items()}
        return QueryBatch(labels=labels, **tensors)


_OF_VIDEOS = ("features", "feature_mask")


class NLQ:
    """Rows of annotation files whose clips are in a feature store."""

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: NLQConfig) -> None:
        self.config = config
        self.features = open_features(config.features)
        self.texts = open_features(config.text_features)
        rows = [row for path in config.annotations for row in read_rows(path)]
        self.num_asked = len(rows)
        """Queries of the files, those left out included."""
        self.rows, self.notes = split_bad_rows(rows)
        self.rows = self._with_features(self.rows)
        _report(self.notes, self.num_asked)
        if not self.rows:
            raise ValueError(
                f"{config.annotations[0]}: none of {self.num_asked} queries can be used, first: "
                f"{self.notes[0]}"
            )
        self._drift_told = False

    def _with_features(self, rows: Sequence[QueryRow]) -> list[QueryRow]:
        videos, texts = set(self.features.names()), set(self.texts.names())
        kept = []
        for row in rows:
            if row.video_id not in videos:
                place = f"video features of {row.video_id} are not in {self.config.features}"
                self.notes.append(f"{row.query_id}: {place}")
            elif row.query_id not in texts:
                place = f"its token features are not in {self.config.text_features}"
                self.notes.append(f"{row.query_id}: {place}")
            else:
                kept.append(row)
        return kept

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The query's words alone; features come in batches (``batch_reader``)."""
        return Sample(index, (), (self.rows[index].query,), {})

    def chunk_of(self, index: int) -> str:
        """Clip of a query."""
        return self.rows[index].video_id

    def evaluation_order(self) -> Sequence[int]:
        """All rows: of one clip side by side, clips of like length too, or as in the file."""
        order = range(len(self.rows))
        if self.config.file_order:
            return order
        return sorted(order, key=lambda i: (self.rows[i].duration_sec, self.rows[i].video_id))

    def batch_reader(self, config: LoaderConfig, seed: int) -> QueryBatchReader:
        """What makes batches of these rows in the loading processes."""
        return QueryBatchReader(self, config, seed)

    def item(
        self, index: int, random: RandomSource | None, read_video: Callable[[str], np.ndarray]
    ) -> QueryItem:
        """A query with its features.

        Args:
            index: its row.
            random: of the jitter; None leaves windows as they are.
            read_video: features of a clip.

        Raises:
            FeatureError: features are missing, damaged or no numbers.
        """
        row, config = self.rows[index], self.config
        features = read_video(row.video_id)
        tokens = read_finite(self.texts, row.query_id, config.text_features)
        stride_sec, window_sec = self._time_grid(row, len(features))
        step_sec = stride_sec * config.downsample_rate
        spans = classes = None
        if row.spans is not None:
            windows = row.spans
            if random is not None and config.jitter:
                windows = tuple(jitter_span(span, random) for span in windows)
            spans = np.array(windows, dtype=np.float64).reshape(-1, 2) / step_sec
            classes = np.zeros((len(spans), config.num_classes), dtype=np.int64)
            classes[:, 0] = 1
        return QueryItem(index, row, features, tokens, spans, classes, step_sec, window_sec)

    def _time_grid(self, row: QueryRow, length: int) -> tuple[float, float]:
        """Seconds from one feature to the next, and behind one."""
        config, facts = self.config, self.features.facts
        own_sec = row.duration_sec / max(length, 1)
        if config.stride_frames is not None:
            fps = config.fps or row.fps
            if fps is None:
                raise ValueError(f"{row.query_id} states no fps; set dataset.fps")
            stride_sec = config.stride_frames / fps
            if abs(own_sec / stride_sec - 1) > _DRIFT and not self._drift_told:
                self._drift_told = True
                log.warning(
                    "%s: %d features of %.2f s are %.3f s apart, stride_frames says %.3f s",
                    row.video_id,
                    length,
                    row.duration_sec,
                    own_sec,
                    stride_sec,
                )
            window_frames = config.window_frames or config.stride_frames
            return stride_sec, window_frames / fps
        rate = facts.features_per_sec
        stride_sec = own_sec if rate is None else 1 / rate
        if config.window_frames is not None and config.fps is not None:
            return stride_sec, config.window_frames / config.fps
        if facts.window_frames is not None and facts.fps is not None:
            return stride_sec, facts.window_frames / facts.fps
        return stride_sec, stride_sec


def _report(notes: Sequence[str], total: int) -> None:
    if notes:
        shown = "; ".join(notes[:_SHOWN])
        more = f"; and {len(notes) - _SHOWN} more" if len(notes) > _SHOWN else ""
        log.warning("%d of %d queries are left out: %s%s", len(notes), total, shown, more)


def read_finite(store: FeatureStore, name: str, path: Path) -> np.ndarray:
    """Features of a store, float32 ``[length, width]``, at least one row, all of them numbers.

    Raises:
        FeatureError: naming store and entry.
    """
    try:
        features = store.read(name)
    except (KeyError, ValueError) as error:
        raise FeatureError(path, None, str(error.args[0] if error.args else error)) from error
    if not len(features):
        raise FeatureError(path, None, f"{name} has no rows")
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise FeatureError(
            path,
            None,
            f"{name}: {int(broken.sum())} of {len(features)} rows hold NaN or infinity, first "
            f"{int(broken.argmax())}; extract them again",
        )
    return features


class QueryBatchReader(torch.utils.data.Dataset):
    """Maps a `BatchPlan` to a `LoadedBatch` of queries; a clip is read once a batch.

    A training sample whose features cannot be read is replaced by one drawn from (seed, epoch, its
    index, try), as unreadable clips of video are.
    """

    def __init__(self, dataset: NLQ, config: LoaderConfig, seed: int) -> None:
        self._dataset = dataset
        self._config = config
        self._seed = seed
        self._videos: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getitem__(self, plan: BatchPlan) -> LoadedBatch:
        items: list[QueryItem] = []
        bad: list[tuple[int, DecodeError]] = []
        for index in plan.indices:
            item = self._item_or_other(index, plan.epoch, bad)
            if item is not None:
                items.append(item)
        return LoadedBatch(collate_queries(items) if items else None, tuple(bad))

    def _item_or_other(
        self, index: int, epoch: int | None, bad: list[tuple[int, DecodeError]]
    ) -> QueryItem | None:
        place = index
        for number in range(_MAX_REPLACEMENTS):
            random = None if epoch is None else SampleRandom(self._seed, epoch, place, VISIT)
            try:
                item = self._dataset.item(place, random, self._read_video)
                limit = self._dataset.config.max_steps
                if epoch is not None and limit is not None and len(item.features) > limit:
                    reason = f"{item.row.video_id} has {len(item.features)} rows, above {limit}"
                    raise FeatureError(self._dataset.config.features, None, reason)
                return item
            except FeatureError as error:
                bad.append((place, error))
            if epoch is None or self._config.on_error == "raise":
                return None
            draw = SampleRandom(self._seed, epoch, index, REPLACEMENT + number)
            place = draw.integer(0, len(self._dataset) - 1)
        return None

    def _read_video(self, name: str) -> np.ndarray:
        """Features of a clip; the latest ones are kept."""
        features = self._videos.get(name)
        if features is None:
            path = self._dataset.config.features
            features = self._videos[name] = read_finite(self._dataset.features, name, path)
            if len(self._videos) > self._config.open_readers:
                self._videos.popitem(last=False)
        self._videos.move_to_end(name)
        return features


def collate_queries(items: Sequence[QueryItem]) -> QueryBatch:
    """Put queries into one batch; clips that several ask about are there once."""
    videos: dict[str, int] = {}
    features: list[np.ndarray] = []
    for item in items:
        if item.row.video_id not in videos:
            videos[item.row.video_id] = len(features)
            features.append(item.features)
    spans = [item.spans if item.spans is not None else np.zeros((0, 2)) for item in items]
    classes = [
        item.classes if item.classes is not None else np.zeros((0, 1), np.int64) for item in items
    ]
    facts = {
        "duration_sec": [item.row.duration_sec for item in items],
        "step_sec": [item.step_sec for item in items],
        "window_sec": [item.window_sec for item in items],
    }
    video, video_mask = _padded(features)
    text, text_mask = _padded([item.tokens for item in items])
    return QueryBatch(
        index=torch.tensor([item.index for item in items], dtype=torch.int64),
        video=None,
        tokens=None,
        token_mask=None,
        labels={name: torch.tensor(values, dtype=torch.float64) for name, values in facts.items()},
        features=video,
        feature_mask=video_mask,
        video_of_row=torch.tensor([videos[item.row.video_id] for item in items]),
        text=text,
        text_mask=text_mask,
        spans=_padded(spans)[0],
        span_counts=torch.tensor([len(span) for span in spans]),
        span_classes=_padded(classes)[0],
    )


def _padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """``[B, longest, ...]`` with zeros behind each end, and where something stands."""
    longest = max(len(row) for row in rows)
    widest = max(row.shape[1] for row in rows)
    table = torch.zeros(len(rows), longest, widest, dtype=torch.from_numpy(rows[0]).dtype)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, row in enumerate(rows):
        table[place, : len(row), : row.shape[1]] = torch.from_numpy(np.ascontiguousarray(row))
        mask[place, : len(row)] = True
    return table, mask
