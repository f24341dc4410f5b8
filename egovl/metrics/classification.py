"""Classification: top-k, mean class accuracy, average precision of several labels, marginals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egovl.metrics.arrays import Array, refuse_nan, to_numpy

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]


def topk_accuracy(scores: Array, targets: Array, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Percent of samples whose target is among the k best classes: ``top1``, ``top5``.

    A class counts before the target only if it scores higher, or as high with a smaller index.

    Args:
        scores: ``[N, classes]``.
        targets: ``[N]`` class ids.
        ks: each at most the number of classes; larger ones count all classes.
    """
    values, target = _checked(scores, targets)
    own = values[np.arange(len(values)), target][:, None]
    classes = np.arange(int(values.shape[1]))
    earlier = np.logical_and(values == own, np.less(classes, target[:, None]))
    rank = np.count_nonzero(np.logical_or(values > own, earlier), axis=1)
    return {f"top{k}": 100 * float((rank < k).mean()) for k in ks}


def confusion_matrix(predictions: Array, targets: Array, num_classes: int) -> NDArray[np.int64]:
    """Counts ``[classes, classes]``, rows the true class, columns the predicted one."""
    pairs = to_numpy(targets) * num_classes + to_numpy(predictions)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracy(scores: Array, targets: Array) -> dict[str, float]:
    """``mean_class`` and ``top1`` accuracy in percent (LaViLa spec 6.1, EGTEA).

    The mean runs over classes that occur as a target or a prediction; one that is only predicted
    counts as 0.
    """
    values, target = _checked(scores, targets)
    return confusion_accuracy(confusion_matrix(values.argmax(axis=1), target, values.shape[1]))


def confusion_accuracy(counts: Array) -> dict[str, float]:
    """`class_accuracy` of counts ``[classes, classes]``, rows the true class."""
    matrix = to_numpy(counts)
    right, present = matrix.diagonal(), matrix.sum(axis=1)
    seen = (present > 0) | (matrix.sum(axis=0) > 0)
    per_class = right[seen] / np.maximum(present[seen], 1)
    return {
        "mean_class": 100 * float(per_class.mean()),
        "top1": 100 * float(right.sum() / matrix.sum()),
    }


def marginal_scores(
    probabilities: Array, part_of_action: Array, num_parts: int, *, legacy_absent: bool = False
) -> NDArray[Any]:
    """Scores ``[N, parts]`` of verbs or nouns: the sum over the actions that contain them.

    Args:
        probabilities: ``[N, actions]``.
        part_of_action: ``[actions]`` verb or noun of each action.
        num_parts: verb or noun classes.
        legacy_absent: LaViLa gives a class that no action contains the score of action 0; off, 0.
    """
    values, part = to_numpy(probabilities), to_numpy(part_of_action)
    contains = np.zeros((values.shape[1], num_parts), dtype=values.dtype)
    contains[np.arange(len(part)), part] = 1
    if legacy_absent:
        contains[0, contains.sum(axis=0) == 0] = 1
    return values @ contains


@dataclass(frozen=True)
class LabelPrecision:
    """Average precision of each class, a fraction; NaN for a class without a positive."""

    per_class: Floats
    weighted: Floats
    """Each class's value times its share of all positives."""

    def mean(self, *, legacy_nan: bool = False) -> float:
        """Mean over the classes that have positives, a fraction; as published NaN if one has none.

        A class that is left out is said in the log.
        """
        absent = np.isnan(self.per_class)
        if legacy_nan or not absent.any():
            return float(self.per_class.mean())
        logger.warning("%d of %d classes have no positive", absent.sum(), len(absent))
        return float(self.per_class[~absent].mean()) if not absent.all() else float("nan")


def label_precision(scores: Array, targets: Array, *, mask_empty: bool = True) -> LabelPrecision:
    """Average precision per class over samples with several labels (Charades-Ego).

    EgoVLP spec 6.4, LaViLa spec 6.2. Equal scores rank by index.

    Args:
        scores: ``[N, classes]``.
        targets: ``[N, classes]`` 0/1.
        mask_empty: samples without any label rank last in every class, as published.

    Raises:
        ValueError: shapes that differ, or a NaN score.
    """
    values, truth = to_numpy(scores).astype(np.float64), to_numpy(targets) > 0
    if values.ndim != 2 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and targets {truth.shape}: need [N, classes]")
    refuse_nan(values, "samples")
    if mask_empty:
        values = np.where(truth.any(axis=1, keepdims=True), values, -np.inf)
    order = np.argsort(-values, axis=0, kind="stable")
    hits = np.take_along_axis(truth, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    counts = truth.sum(axis=0)
    with np.errstate(invalid="ignore"):
        per_class = (precision * hits).sum(axis=0) / counts
    return LabelPrecision(per_class, per_class * counts / counts.sum())


def _checked(scores: Array, targets: Array) -> tuple[NDArray[Any], NDArray[np.int64]]:
    values, target = to_numpy(scores), to_numpy(targets)
    if values.ndim != 2 or target.shape != values.shape[:1]:
        raise ValueError(f"scores {values.shape}, targets {target.shape}: need [N, classes], [N]")
    if not len(values):
        raise ValueError("there is no sample")
    if target.min() < 0 or target.max() >= values.shape[1]:
        raise ValueError(
            f"targets reach from {target.min()} to {target.max()}, there are {values.shape[1]} "
            "classes"
        )
    refuse_nan(values, "samples")
    return values, target.astype(np.int64)
