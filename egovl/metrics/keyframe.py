"""State changes of objects: is there one (OSCC), and at which frame (PNR). EgoVLP spec 6.6."""

from __future__ import annotations

import numpy as np

from egovl.metrics.arrays import Array, refuse_nan, to_numpy
from egovl.metrics.classification import topk_accuracy


def state_change_accuracy(scores: Array, labels: Array) -> dict[str, float]:
    """Percent of clips judged rightly: ``accuracy``; scores ``[N, 2]``, labels ``[N]`` 0/1."""
    return {"accuracy": topk_accuracy(scores, labels, (1,))["top1"]}


def keyframe_error(
    scores: Array,
    *,
    start_frame: Array,
    end_frame: Array,
    keyframe: Array,
    fps: Array,
    state_change: Array | None = None,
    legacy_nan: bool = False,
) -> dict[str, float]:
    """Mean distance in seconds between the predicted and the true point of no return.

    The prediction is the best place times the frames of the clip over the number of places.

    Args:
        scores: ``[N, places]``.
        start_frame: ``[N]`` first frame of the whole clip. Likewise ``end_frame``.
        keyframe: ``[N]`` true frame.
        fps: ``[N]`` frames per second.
        state_change: ``[N]`` 0/1; clips without one do not count.
        legacy_nan: without a clip that counts, NaN as published; off, an error.

    Raises:
        ValueError: no clip counts, a place that is no number.
    """
    values = to_numpy(scores)
    refuse_nan(values, "clips")
    start, end, true_frame, rate = (
        to_numpy(x).astype(np.float64) for x in (start_frame, end_frame, keyframe, fps)
    )
    predicted = values.argmax(axis=1) * (end - start) / values.shape[1]
    error_sec = np.abs(predicted - (true_frame - start)) / rate
    if state_change is not None:
        error_sec = error_sec[to_numpy(state_change) > 0]
    if not len(error_sec):
        if legacy_nan:
            return {"error_sec": float("nan")}
        raise ValueError("no clip has a state change; the keyframe error needs at least one")
    return {"error_sec": float(error_sec.mean())}
