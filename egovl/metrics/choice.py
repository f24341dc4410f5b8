"""Multiple choice accuracy: EgoMCQ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from egovl.metrics.arrays import Array, refuse_nan, to_numpy

TYPE_NAMES = {1: "inter_video", 2: "intra_video"}
_LEGACY_NAMES = ("Intra-video", "Inter-video")


def choice_accuracy(
    scores: Array,
    answers: Array,
    types: Array,
    *,
    legacy_names: bool = False,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Share of questions whose answer scores highest, in percent, for each question type.

    The first of equal scores wins. A type without a question is left out. EgoVLP spec section 6.1,
    LaViLa spec section 6.1.

    Args:
        scores: ``[Q, K]`` score of each choice.
        answers: ``[Q]`` index of the right choice.
        types: ``[Q]`` 1 = choices from other videos (inter), 2 = from the same video (intra).
        legacy_names: name the types as EgoVLP and LaViLa print them: the smallest id present
            "Intra-video", the next "Inter-video", which swaps the two. Parity: ``metric_egomcq``.
        names: of the types present, in the order of their ids, whatever these are: HierVL's
            "Inter-video", "Intra-video", and "SummaryMCQ" (its spec, 6.1).

    Returns:
        ``inter_video`` and ``intra_video``, those present, or the names given.

    Raises:
        ValueError: if shapes do not fit, a score is NaN or a type is unknown or has no name.
    """
    values, right, kinds = (to_numpy(x) for x in (scores, answers, types))
    if values.ndim != 2 or right.shape != values.shape[:1] or kinds.shape != right.shape:
        raise ValueError(
            f"scores {values.shape}, answers {right.shape}, types {kinds.shape}: "
            "need [Q, K], [Q] and [Q]"
        )
    refuse_nan(values, "questions")
    present = [int(kind) for kind in np.unique(kinds)]
    if names is None and not legacy_names:
        named = TYPE_NAMES
    else:
        named = dict(zip(present, names or _LEGACY_NAMES, strict=False))
    unknown = [kind for kind in present if kind not in (named if names else TYPE_NAMES)]
    if unknown:
        raise ValueError(f"question types {unknown}: known are {named}")
    hits = values.argmax(axis=1) == right
    return {named[kind]: 100.0 * float(hits[kinds == kind].mean()) for kind in present}
