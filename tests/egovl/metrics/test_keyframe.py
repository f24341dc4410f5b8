from __future__ import annotations

import numpy as np
import pytest

from egovl.metrics.keyframe import keyframe_error, state_change_accuracy

FACTS = {
    "start_frame": np.array([100, 0, 50]),
    "end_frame": np.array([340, 240, 290]),
    "keyframe": np.array([115, 60, 50]),
    "fps": np.array([30.0, 30.0, 15.0]),
}


def test_the_error_is_the_distance_of_the_predicted_frame_in_seconds() -> None:
    scores = np.eye(16)[[1, 0, 2]]  # frames 15, 0 and 30 after the start
    found = keyframe_error(scores, **FACTS)
    assert found["error_sec"] == pytest.approx((0 / 30 + 60 / 30 + 30 / 15) / 3)
    one = keyframe_error(scores, **FACTS, state_change=np.array([0, 1, 0]))
    assert one["error_sec"] == pytest.approx(2.0)


def test_no_clip_with_a_change_is_refused() -> None:
    nothing = np.zeros(3)
    with pytest.raises(ValueError, match="no clip has a state change"):
        keyframe_error(np.eye(16)[:3], **FACTS, state_change=nothing)
    legacy = keyframe_error(np.eye(16)[:3], **FACTS, state_change=nothing, legacy_nan=True)
    assert np.isnan(legacy["error_sec"])


def test_state_changes_are_counted_in_percent() -> None:
    scores = np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [0.1, 0.9]])
    assert state_change_accuracy(scores, np.array([1, 0, 0, 1])) == {"accuracy": 75.0}
