"""The rule against shortcuts: frames without their order do not tell a verb from its reverse."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic_plan import (
    ATTRIBUTES,
    EVAL,
    NOUNS,
    VERBS,
    Verb,
    plan_videos,
    sample_poses,
)
from egovl.data.prepare.synthetic_scene import render_video


@pytest.mark.parametrize("verb", VERBS)
def test_a_clip_moves_its_verbs_attribute_and_no_other(verb: Verb) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, last = sample_poses(verb, rng)
        moved = np.flatnonzero(first != last)
        assert moved.tolist() == [verb.attribute]
        assert (last > first)[verb.attribute] == bool(verb.ends_at)


@pytest.mark.parametrize("index", range(len(VERBS)))
def test_a_clip_played_backwards_is_a_clip_of_the_partner_verb(index: int) -> None:
    for seed in range(20):
        first, last = sample_poses(VERBS[index], np.random.default_rng(seed))
        reverse_first, reverse_last = sample_poses(VERBS[index ^ 1], np.random.default_rng(seed))
        np.testing.assert_array_equal(first, reverse_last)
        np.testing.assert_array_equal(last, reverse_first)


def test_verbs_and_objects_are_balanced() -> None:
    plans = plan_videos(SyntheticConfig(train_videos=48, eval_videos=5))
    train = [plan for plan in plans if plan.split != EVAL]
    assert set(Counter(plan.noun for plan in train).values()) == {2}
    assert (len(VERBS), len(NOUNS), len(ATTRIBUTES)) == (8, 24, 4)
    for plan in train:
        verbs = Counter(action.verb for action in plan.actions)
        assert len(verbs) == 4
        assert set(verbs.values()) == {5}
        assert all(verb ^ 1 in verbs for verb in verbs)


def test_more_training_videos_leave_the_looks_of_the_others_as_they_were() -> None:
    few = plan_videos(SyntheticConfig(train_videos=2, eval_videos=5))
    many = plan_videos(SyntheticConfig(train_videos=4, eval_videos=5))
    assert [p.uid for p in few[2:]] == [p.uid for p in many[4:]]
    assert [p.uid for p in few[:2]] == [p.uid for p in many[:2]]


Clips = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Real frames [K, 4, pixels] at the middle of each quarter, verbs [K], videos [K]."""
    shown, verbs, videos = [], [], []
    for plan in plan_videos(SyntheticConfig(train_videos=40, eval_videos=5, size=32)):
        pixels = render_video(plan, 32).astype(np.float32).mean(axis=-1) / 255
        for action in plan.actions:
            at = action.start_sec + (np.arange(4) + 0.5) / 4 * (action.end_sec - action.start_sec)
            shown.append(pixels[(at * 30).astype(int)].reshape(4, -1))
            verbs.append(action.verb)
            videos.append(plan.uid)
    return np.stack(shown), np.array(verbs), np.array(videos)


def tell_from_partner(features: np.ndarray, verbs: np.ndarray, videos: np.ndarray) -> float:
    """Share of clips nearer to their verb's mean than to its partner's, among the other clips of
    the same video; 0.5 is chance."""
    right, count = 0.0, 0
    for video in np.unique(videos):
        mine, theirs = features[videos == video], verbs[videos == video]
        for place, verb in enumerate(theirs):
            others = np.arange(len(theirs)) != place
            own = mine[others & (theirs == verb)].mean(axis=0)
            partner = mine[others & (theirs == verb ^ 1)].mean(axis=0)
            own_far, partner_far = ((mine[place] - c) ** 2 for c in (own, partner))
            right += own_far.sum() < partner_far.sum()
            count += 1
    return right / count


def test_frames_in_order_tell_a_verb_from_its_reverse(clips: Clips) -> None:
    shown, verbs, videos = clips
    assert len(verbs) == 900
    assert tell_from_partner(shown.reshape(len(shown), -1), verbs, videos) > 0.75


def test_frames_without_order_do_not(clips: Clips) -> None:
    shown, verbs, videos = clips
    unordered = np.concatenate([shown.mean(1), shown.std(1), shown.min(1), shown.max(1)], axis=1)
    assert abs(tell_from_partner(unordered, verbs, videos) - 0.5) < 0.06


def test_one_frame_at_an_unknown_time_does_not(clips: Clips) -> None:
    shown, verbs, videos = clips
    quarter = np.random.default_rng(0).integers(4, size=len(shown))
    one_frame = shown[np.arange(len(shown)), quarter]
    assert abs(tell_from_partner(one_frame, verbs, videos) - 0.5) < 0.06
