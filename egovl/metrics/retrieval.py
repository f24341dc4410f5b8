"""Retrieval: EK-100 multi-instance mAP and nDCG, and ranks where every query has its own item.

Each direction of the EK-100 metrics needs the ranks of the items with relevancy, about a tenth of
all. Instead of two full argsorts a query's scores are sorted once as plain numbers, the ranks of
those items are looked up in them, and mAP and nDCG share the result. Queries are taken in blocks,
so nothing of the size of the whole matrix is made. Equal scores rank by index; the published code
leaves their order to numpy's unstable sort, which ``legacy_ties`` repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from egovl.metrics.arrays import Array, refuse_nan, to_numpy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OnEmpty = Literal["raise", "skip", "legacy_nan"]

_BLOCK_SCORES = 1 << 19  # scores of the queries that are ranked together
_FEW_EQUALS = 16  # items of a query whose equals are counted one by one


@dataclass(frozen=True)
class RankedQueries:
    """One direction of the EK-100 metrics, a value per query.

    Attributes:
        average_precision: ``[Q]``, NaN without an item of relevancy 1.
        dcg: ``[Q]``, over the first ``num_relevant`` ranks. Likewise ``ideal_dcg``.
        num_relevant: ``[Q]`` items of relevancy above 0.
    """

    average_precision: Floats
    dcg: Floats
    ideal_dcg: Floats
    num_relevant: Ints

    @property
    def ndcg(self) -> Floats:
        """``[Q]``, NaN for a query without relevant items."""
        with np.errstate(invalid="ignore"):
            return self.dcg / self.ideal_dcg


Order = Callable[[NDArray[Any]], NDArray[np.intp]]
"""Items of one query, the best first, from its scores; asked only where scores are equal."""


def _legacy_precision_order(scores: NDArray[Any]) -> NDArray[np.intp]:
    return np.argsort(-scores)


def _legacy_gain_order(scores: NDArray[Any]) -> NDArray[np.intp]:
    return np.argsort(scores)[::-1]


def rank_queries(scores: Array, relevancy: Array, *, legacy_ties: bool = False) -> RankedQueries:
    """Average precision and gains of every query (EgoVLP spec 6.2, LaViLa spec 6.2).

    Precision at a rank sums the relevancies up to it, fractions included; only items of relevancy
    exactly 1 count as hits. This is the benchmark's own definition.

    Args:
        scores: ``[Q, N]`` of query and item.
        relevancy: ``[Q, N]``, 0 .. 1.
        legacy_ties: equal scores in numpy's order, another one for each metric, which depends on
            the processor (parity: egovlp ``metrics``, whose dual softmax underflows to ties).

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    values, gains = to_numpy(scores), to_numpy(relevancy)
    if values.ndim != 2 or values.shape != gains.shape:
        raise ValueError(f"scores {values.shape} and relevancy {gains.shape}: need [Q, N] twice")
    size = max(1, _BLOCK_SCORES // max(1, values.shape[1]))
    discounts: Floats = 1 / np.log2(np.arange(values.shape[1], dtype=np.float64) + 2)
    blocks = [
        _rank_block(
            values[start : start + size], gains[start : start + size], discounts, legacy_ties
        )
        for start in range(0, len(values), size)
    ]
    names = ("average_precision", "dcg", "ideal_dcg", "num_relevant")
    return RankedQueries(*(np.concatenate([getattr(b, name) for b in blocks]) for name in names))


def _rank_block(
    scores: NDArray[Any], gains: NDArray[Any], discounts: Floats, legacy_ties: bool
) -> RankedQueries:
    gains = np.ascontiguousarray(gains)
    num_queries, num_items = gains.shape
    places = np.flatnonzero(gains)
    query = places // num_items
    items = places - query * num_items
    counts = np.bincount(query, minlength=num_queries)
    ends = np.cumsum(counts)
    gain_of = gains.ravel()[places].astype(np.float64)
    values = np.ascontiguousarray(scores) if legacy_ties else _narrow(scores)
    order, rank = _ranks(values, items, ends, _legacy_gain_order if legacy_ties else None)
    kept = np.flatnonzero(rank < counts[query])
    gained = gain_of[order[kept]] * discounts[rank[kept]]
    dcg: Floats = np.bincount(query[kept], gained, num_queries).astype(np.float64)
    if legacy_ties:
        order, rank = _ranks(values, items, ends, _legacy_precision_order)
    gain = gain_of[order]
    total = np.cumsum(gain)
    before = np.concatenate([[0.0], total])[ends - counts]
    hits = np.flatnonzero(gain == 1)
    hit_query = query[hits]
    precision = (total[hits] - before[hit_query]) / (rank[hits] + 1)
    num_hits = np.bincount(hit_query, minlength=num_queries)
    with np.errstate(invalid="ignore"):
        average = np.bincount(hit_query, precision, num_queries) / num_hits
    return RankedQueries(average, dcg, _ideal_dcg(query, gain, counts, discounts), counts)


def _ranks(
    scores: NDArray[Any], items: Ints, ends: Ints, order_tied: Order | None
) -> tuple[Ints, Ints]:
    """Chosen items of every query in the order of their ranks, and these ranks, from 0.

    Those of query q are ``items[ends[q - 1] : ends[q]]``; the order points into ``items``. Equal
    scores rank by index, or as ``order_tied`` says.
    """
    refuse_nan(scores, "queries")
    negated = np.negative(scores)
    in_order = np.sort(negated, axis=1)
    tied = (in_order[:, 1:] == in_order[:, :-1]).any(axis=1).tolist()
    order, ranks = np.empty(len(items), dtype=np.int64), np.empty(len(items), dtype=np.int64)
    start = 0
    for query, end in enumerate(ends.tolist()):
        row, chosen = negated[query], items[start:end]
        own = row[chosen]
        places = np.argsort(own)
        if tied[query] and order_tied is not None:
            found = _places_in(order_tied(scores[query]))[chosen[places]]
        else:
            # a search for sorted values is twice as fast as one in any order
            found = in_order[query].searchsorted(own[places])
            if tied[query]:
                found = _after_equals(found, row, in_order[query], chosen[places])
        if tied[query]:
            again = np.argsort(found)
            places, found = places[again], found[again]
        order[start:end], ranks[start:end] = places + start, found
        start = end
    return order, ranks


def _after_equals(
    ranks: NDArray[np.intp], row: NDArray[Any], in_order: NDArray[Any], items: Ints
) -> NDArray[np.intp]:
    """Ranks behind the items of equal value and smaller index; ``ranks`` are those of the first."""
    following = in_order[np.minimum(ranks + 1, len(row) - 1)]
    equal = np.flatnonzero((following == row[items]) & (ranks + 1 < len(row)))
    if len(equal) > _FEW_EQUALS:
        return _places_in(np.argsort(row, kind="stable"))[items]
    for place in equal.tolist():
        item = int(items[place])
        ranks[place] += np.count_nonzero(row[:item] == row[item])
    return ranks


def _places_in(best_first: NDArray[np.intp]) -> NDArray[np.intp]:
    places = np.empty_like(best_first)
    places[best_first] = np.arange(len(best_first))
    return places


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in float32, which sorts in a third of the time, where none is changed."""
    values = np.ascontiguousarray(values)
    if values.dtype != np.float64:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values


def _ideal_dcg(query: Ints, gain: Floats, counts: Ints, discounts: Floats) -> Floats:
    """Gains of a ranking by the relevancies themselves."""
    longest = int(counts.max(initial=0))
    if not longest:
        return np.zeros(len(counts))
    position = np.arange(len(gain)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((len(counts), longest))
    table[query, position] = -gain
    table.sort(axis=1)
    return -(table @ discounts[:longest])


def mir_metrics(
    similarity: Array,
    relevancy: Array,
    *,
    on_empty: OnEmpty = "raise",
    legacy_ties: bool = False,
) -> dict[str, float]:
    """EK-100 multi-instance retrieval, in percent (EgoVLP spec 6.2, LaViLa spec 6.2).

    Args:
        similarity: ``[V, S]`` of video and sentence.
        relevancy: ``[V, S]``, 0 .. 1.
        on_empty: a query without a relevant item (nDCG) or one of relevancy 1 (mAP), which the
            benchmark does not have: stop, leave it out of that mean, or as published let it turn
            the mean into NaN (parity: lavila ``metric_ek100_mir``).
        legacy_ties: see `rank_queries`.

    Returns:
        ``mAP_v2t, mAP_t2v, mAP, nDCG_v2t, nDCG_t2v, nDCG``.

    Raises:
        ValueError: shapes that do not fit, a NaN score, or an empty query.
    """
    values, gains = to_numpy(similarity), to_numpy(relevancy)
    found: dict[str, float] = {}
    for direction, (scores, truth) in {"v2t": (values, gains), "t2v": (values.T, gains.T)}.items():
        ranked = rank_queries(scores, truth, legacy_ties=legacy_ties)
        found[f"mAP_{direction}"] = _mean(ranked.average_precision, f"mAP {direction}", on_empty)
        found[f"nDCG_{direction}"] = _mean(ranked.ndcg, f"nDCG {direction}", on_empty)
    return {
        f"{metric}{suffix}": value
        for metric in ("mAP", "nDCG")
        for suffix, value in (
            ("_v2t", found[f"{metric}_v2t"]),
            ("_t2v", found[f"{metric}_t2v"]),
            ("", (found[f"{metric}_v2t"] + found[f"{metric}_t2v"]) / 2),
        )
    }


def _mean(per_query: Floats, metric: str, on_empty: OnEmpty) -> float:
    empty = np.isnan(per_query)
    if empty.any() and on_empty == "raise":
        raise ValueError(
            f"{metric}: {empty.sum()} of {len(per_query)} queries have nothing to find, first "
            f"{empty.argmax()}; check the relevancy, or set on_empty=skip"
        )
    kept = per_query[~empty] if on_empty == "skip" else per_query
    return 100 * float(kept.mean()) if len(kept) else float("nan")


def dual_softmax(text_video: Tensor, temperature: float = 500.0) -> Tensor:
    """Re-weigh raw dot products ``[T, V]`` by a softmax over videos, then one over texts.

    EgoVLP spec 6.3; the "+" row of its EK-100 table.
    """
    weighted = (text_video / temperature).softmax(dim=1) * text_video
    return weighted.softmax(dim=0)


def recall_metrics(similarity: Array, video_of_text: Array | None = None) -> dict[str, float]:
    """Recall, median and mean rank of text-to-video and video-to-text search (EgoVLP spec 6.7).

    Args:
        similarity: ``[T, V]`` of text and video.
        video_of_text: ``[T]`` video of each text; None: text i belongs to video i.

    Returns:
        For ``t2v`` and ``v2t``: ``_R1 _R5 _R10 _R50`` in percent, ``_MedR _MeanR`` (from 1),
        ``_geometric_mean`` of the first three recalls. A text's equal scores count in its favour;
        a video's are averaged, and its best text counts.

    Raises:
        ValueError: shapes that do not fit, a NaN score, or a video without a text.
    """
    values = to_numpy(similarity).astype(np.float64)
    owner: Ints = np.arange(len(values)) if video_of_text is None else to_numpy(video_of_text)
    if values.ndim != 2 or owner.shape != values.shape[:1]:
        raise ValueError(f"similarity {values.shape} and owners {owner.shape}: need [T, V] and [T]")
    refuse_nan(values, "texts")
    num_texts, num_videos = int(values.shape[0]), int(values.shape[1])
    missing: Ints = np.setdiff1d(np.arange(num_videos), owner)
    if len(missing) or owner.min() < 0 or owner.max() >= num_videos:
        raise ValueError(f"videos {missing[:5].tolist()} have no text, or a text no video")
    own = values[np.arange(num_texts), owner]
    text_ranks = (values > own[:, None]).sum(axis=1).astype(np.float64)
    columns = values.T[owner]  # [T, T]: all scores of the text's own video
    higher = (columns > own[:, None]).sum(axis=1)
    equal = (columns == own[:, None]).sum(axis=1)
    by_text = higher + (equal - 1) / 2
    video_ranks = np.full(num_videos, np.inf)
    np.minimum.at(video_ranks, owner, by_text)
    return _rank_summary("t2v", text_ranks) | _rank_summary("v2t", video_ranks)


def _rank_summary(direction: str, ranks: Floats) -> dict[str, float]:
    recalls = {k: 100 * float((ranks < k).mean()) for k in (1, 5, 10, 50)}
    found = {f"{direction}_R{k}": value for k, value in recalls.items()}
    found[f"{direction}_MedR"] = float(np.median(ranks)) + 1
    found[f"{direction}_MeanR"] = float(ranks.mean()) + 1
    product = recalls[1] * recalls[5] * recalls[10]
    found[f"{direction}_geometric_mean"] = float(np.cbrt(product))
    return found


def class_relevancy(verbs: Array, nouns: Array, columns: Array) -> Floats:
    """Relevancy of videos and sentences from their classes, ``[V, S]`` (EgoVLP spec 3.9).

    Half the overlap (intersection over union) of their verb classes and half that of their nouns.

    Args:
        verbs: ``[V, classes]`` 0/1. Likewise ``nouns``.
        nouns: ``[V, classes]`` 0/1.
        columns: ``[S]`` the video whose classes a sentence has.

    Raises:
        ValueError: a video without a verb or a noun class.
    """
    place = to_numpy(columns)
    kinds = [
        (to_numpy(hot).astype(np.float32), name) for hot, name in ((verbs, "verb"), (nouns, "noun"))
    ]
    relevancy = np.zeros((len(kinds[0][0]), len(place)))
    step = max(1, _BLOCK_SCORES // max(1, len(place)))
    for hot, name in kinds:
        sizes = hot.sum(axis=1)
        if not sizes.all():
            raise ValueError(f"video {int(sizes.argmin())} has no {name} class")
        sentences, sentence_sizes = hot[place].T, sizes[place]
        for start in range(0, len(hot), step):
            rows = slice(start, start + step)
            shared = (hot[rows] @ sentences).astype(np.float64)
            relevancy[rows] += shared / (sizes[rows, None] + sentence_sizes - shared)
    relevancy /= 2
    return relevancy
