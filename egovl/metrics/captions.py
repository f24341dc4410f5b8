"""Caption metrics on texts split at white space, no PTB tokenizer (LaViLa 6.3, Egoinstructor 6.1).

The definitions are those of the coco-caption scorers, which nlg-eval wraps. Case and punctuation
count; whoever wants them gone removes them before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from egovl.metrics.meteor import MeteorMissing, meteor

logger = logging.getLogger(__name__)

MAX_ORDER = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
# published guards against a division by zero; they show in the last digits of every BLEU
_TINY, _SMALL = 1e-15, 1e-9

Floats = NDArray[np.float64]
Ngram = tuple[str, ...]
References = Sequence[Sequence[str]]


class Score(NamedTuple):
    """A metric over all captions, and of each."""

    corpus: float
    each: Floats


def caption_scores(
    references: References,
    candidates: Sequence[str],
    *,
    meteor_jar: Path | None = None,
    with_meteor: bool = True,
) -> dict[str, float]:
    """Corpus values of ``BLEU-1`` to ``BLEU-4``, ``METEOR``, ``ROUGE-L`` and ``CIDEr``.

    METEOR needs Java and its jar; where one is absent the log says so and ``METEOR`` is left out.

    Args:
        references: for each clip its true captions, one or more.
        candidates: the caption to judge of each clip.
        meteor_jar: METEOR 1.5; None looks for the one that pycocoevalcap brings.
        with_meteor: False leaves it out, which saves starting Java.

    Raises:
        ValueError: no captions, lists of unequal length, a clip without a reference.
    """
    every = every_score(references, candidates, meteor_jar=meteor_jar, with_meteor=with_meteor)
    return {name: score.corpus for name, score in every.items()}


def every_score(
    references: References,
    candidates: Sequence[str],
    *,
    meteor_jar: Path | None = None,
    with_meteor: bool = True,
) -> dict[str, Score]:
    """As `caption_scores`, with each caption's own value."""
    _require_pairs(references, candidates)
    found = {f"BLEU-{n + 1}": score for n, score in enumerate(bleu(references, candidates))}
    if with_meteor:
        try:
            found["METEOR"] = Score(*meteor(references, candidates, meteor_jar))
        except MeteorMissing as error:
            logger.warning("METEOR is left out: %s", error)
    return found | {
        "ROUGE-L": rouge_l(references, candidates),
        "CIDEr": cider(references, candidates),
    }


def bleu(references: References, candidates: Sequence[str]) -> list[Score]:
    """BLEU-1 to BLEU-4: clipped n-gram precision, brevity against the closest reference.

    The corpus value comes from summed counts, not from a mean.
    """
    _require_pairs(references, candidates)
    correct = np.zeros((len(candidates), MAX_ORDER))
    guessed = np.zeros((len(candidates), MAX_ORDER))
    lengths = np.zeros((len(candidates), 2))  # of the candidate, of the reference closest to it
    for row, (truths, candidate) in enumerate(zip(references, candidates, strict=True)):
        words = candidate.split()
        split = [truth.split() for truth in truths]
        lengths[row] = len(words), min((abs(len(t) - len(words)), len(t)) for t in split)[1]
        for order in range(MAX_ORDER):
            found = _ngrams(words, order + 1)
            allowed: Counter[Ngram] = Counter()
            for truth in split:
                allowed |= _ngrams(truth, order + 1)
            guessed[row, order] = max(len(words) - order, 0)
            correct[row, order] = (found & allowed).total()
    each = _bleu_of(correct, guessed, lengths)
    corpus = _bleu_of(correct.sum(0)[None], guessed.sum(0)[None], lengths.sum(0)[None])[0]
    return [Score(float(corpus[n]), each[:, n]) for n in range(MAX_ORDER)]


def _bleu_of(correct: Floats, guessed: Floats, lengths: Floats) -> Floats:
    """BLEU [N, 4] of counts [N, 4] and lengths [N, 2]."""
    precision = (correct + _TINY) / (guessed + _SMALL)
    orders = np.arange(1, MAX_ORDER + 1)
    score = precision.cumprod(axis=1) ** (1.0 / orders)
    ratio = (lengths[:, 0] + _TINY) / (lengths[:, 1] + _SMALL)
    with np.errstate(over="ignore"):
        brevity = np.where(ratio < 1, np.exp(np.minimum(1 - 1 / ratio, 0)), 1.0)
    return score * brevity[:, None]


def rouge_l(references: References, candidates: Sequence[str]) -> Score:
    """F of the longest common subsequence, mean over captions.

    Split at every single space, so that two spaces hold an empty word, as published. Of several
    references the best precision and the best recall count.
    """
    _require_pairs(references, candidates)
    pairs = [
        (row, truth.split(" "), candidate.split(" "))
        for row, (truths, candidate) in enumerate(zip(references, candidates, strict=True))
        for truth in truths
    ]
    common = common_subsequences([(truth, words) for _, truth, words in pairs])
    precision, recall = np.zeros(len(candidates)), np.zeros(len(candidates))
    for (row, truth, words), length in zip(pairs, common, strict=True):
        precision[row] = max(precision[row], length / len(words))
        recall[row] = max(recall[row], length / len(truth))
    square = _ROUGE_BETA**2
    both = (precision > 0) & (recall > 0)
    divisor = np.where(both, recall + square * precision, 1.0)
    each = np.where(both, (1 + square) * precision * recall / divisor, 0.0)
    return Score(float(each.mean()), each)


def common_subsequences(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[int]:
    """Length of the longest common subsequence of each pair, all pairs in step."""
    ids: dict[str, int] = {}
    left = _id_table([a for a, _ in pairs], ids, filler=-1)
    right = _id_table([b for _, b in pairs], ids, filler=-2)
    row = np.zeros((len(pairs), right.shape[1] + 1), dtype=np.int32)
    for i in range(left.shape[1]):
        # row[j + 1] = row_before[j] + 1 where words meet, else the larger neighbour: the running
        # maximum is exact, as neighbours of a row differ by at most one
        met = np.where(left[:, i, None] == right, row[:, :-1] + 1, row[:, 1:])
        row[:, 1:] = np.maximum.accumulate(met, axis=1)
    return row[:, -1].tolist()


def _id_table(
    texts: Sequence[Sequence[str]], ids: dict[str, int], filler: int
) -> NDArray[np.int32]:
    table = np.full((len(texts), max(map(len, texts), default=0)), filler, dtype=np.int32)
    for row, words in enumerate(texts):
        table[row, : len(words)] = [ids.setdefault(word, len(ids)) for word in words]
    return table


def cider(references: References, candidates: Sequence[str]) -> Score:
    """CIDEr-D: tf-idf of 1- to 4-grams over the reference sets, mean over captions, times 10.

    A corpus of one clip has no idf, so its score is 0.
    """
    _require_pairs(references, candidates)
    counts = [[_all_ngrams(truth) for truth in truths] for truths in references]
    frequency: Counter[Ngram] = Counter()
    for truths in counts:
        frequency.update({ngram for truth in truths for ngram in truth})
    weights = _Idf(frequency, len(references))
    each = np.zeros(len(candidates))
    for row, (truths, candidate) in enumerate(zip(counts, candidates, strict=True)):
        guess = weights.vectors(_all_ngrams(candidate))
        values = [_cider_similarity(guess, weights.vectors(truth)) for truth in truths]
        each[row] = 10.0 * sum(values) / len(values)
    return Score(float(each.mean()), each)


class _Vectors(NamedTuple):
    """tf-idf of one text for each order, their norms, and its number of bigrams."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    bigrams: int


class _Idf:
    def __init__(self, frequency: Mapping[Ngram, int], num_sets: int) -> None:
        self._frequency = frequency
        self._log_sets = float(np.log(num_sets))

    def vectors(self, counts: Mapping[Ngram, int]) -> _Vectors:
        weights: list[dict[Ngram, float]] = [{} for _ in range(MAX_ORDER)]
        bigrams = 0
        for ngram, count in counts.items():
            rarity = self._log_sets - float(np.log(max(1, self._frequency.get(ngram, 0))))
            weights[len(ngram) - 1][ngram] = count * rarity
            bigrams += count if len(ngram) == 2 else 0
        norms = [float(np.sqrt(sum(w * w for w in order.values()))) for order in weights]
        return _Vectors(weights, norms, bigrams)


def _cider_similarity(guess: _Vectors, truth: _Vectors) -> float:
    """Clipped cosine of each order times a penalty on unequal length, mean over the orders."""
    delta = guess.bigrams - truth.bigrams
    penalty = float(np.exp(-(delta**2) / (2 * _CIDER_SIGMA**2)))
    total = 0.0
    for order in range(MAX_ORDER):
        known = truth.weights[order]
        value = sum(
            min(weight, known[ngram]) * known[ngram]
            for ngram, weight in guess.weights[order].items()
            if ngram in known
        )
        norm = guess.norms[order] * truth.norms[order]
        total += (value / norm if norm else value) * penalty
    return total / MAX_ORDER


def _ngrams(words: Sequence[str], order: int) -> Counter[Ngram]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _all_ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    return Counter(_chain(_ngrams(words, order + 1) for order in range(MAX_ORDER)))


def _chain(counts: Iterable[Counter[Ngram]]) -> Counter[Ngram]:
    total: Counter[Ngram] = Counter()
    for count in counts:
        total.update(count)
    return total


def _require_pairs(references: References, candidates: Sequence[str]) -> None:
    if not candidates or len(references) != len(candidates):
        raise ValueError(
            f"{len(references)} reference sets for {len(candidates)} candidates: "
            "need as many, and at least one"
        )
    bare = next((row for row, truths in enumerate(references) if not truths), None)
    if bare is not None or any(isinstance(truths, str) for truths in references):
        row = next(r for r, t in enumerate(references) if isinstance(t, str) or not t)
        raise ValueError(f"references[{row}] is {references[row]!r}: need a list of captions")
