from __future__ import annotations

import json
from pathlib import Path

import pytest

from egovl.data.datasets.configs import OSCCConfig, PNRConfig
from egovl.data.datasets.state_change import Keyframes, StateChanges
from egovl.data.randomness import SampleRandom


def entry(name: str, state_change: bool | None, keyframe: int | None = None) -> dict[str, object]:
    clip: dict[str, object] = {
        "unique_id": name,
        "video_uid": "u",
        "parent_start_sec": 10.0,
        "parent_end_sec": 18.0,
        "parent_start_frame": 300,
        "parent_end_frame": 540,
    }
    if state_change is not None:
        clip["state_change"] = state_change
    if keyframe is not None:
        clip["parent_pnr_frame"] = keyframe
    return clip


CLIPS = [entry("a", True, 350), entry("b", False), entry("c", None), entry("d", True, 539)]


def build(root: Path, kind: type, **options: object) -> StateChanges:
    path = root / "fho.json"
    if not path.exists():
        path.write_text(json.dumps({"clips": CLIPS}))
    return kind(annotations=path, video_root=root, **options).build()


def test_every_clip_says_whether_a_state_changes(tmp_path: Path) -> None:
    dataset = build(tmp_path, OSCCConfig)
    assert [dataset[i].labels["state_change"] for i in range(4)] == [1, 0, 0, 1]
    folders = [dataset[i].clips[0].video.path.relative_to(tmp_path) for i in range(2)]
    assert folders == [Path("frames_jpeg/a"), Path("frames_jpeg_neg/b")]
    assert dataset[0].clips[0].frames == tuple(range(300, 540, 15))
    assert len(build(tmp_path, OSCCConfig, max_clips=3)) == 3


def test_keyframes_are_clips_with_a_change_and_the_nearest_frame(tmp_path: Path) -> None:
    dataset = build(tmp_path, PNRConfig)
    assert isinstance(dataset, Keyframes)
    assert len(dataset) == 2
    labels = dict(dataset[0].labels)
    assert labels.pop("fps") == pytest.approx(241 / 8)
    assert labels == {
        "keyframe": 3,  # 345 is nearer to 350 than 360
        "keyframe_frame": 350,
        "start_frame": 300,
        "end_frame": 540,
    }
    assert dataset[1].labels["keyframe"] == 15


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_window_is_part_of_the_clip_and_holds_the_keyframe(
    tmp_path: Path, legacy: bool
) -> None:
    dataset = build(tmp_path, PNRConfig, legacy_offset=legacy)
    starts, lengths = [], []
    for visit in range(200):
        sample = dataset.draw_sample(0, SampleRandom(0, visit, 0))
        frames = sample.clips[0].frames
        assert frames is not None
        assert len(frames) == 16
        assert frames[0] >= 300 and frames[-1] < 540
        spacing = frames[1] - frames[0]
        near = frames[int(sample.labels["keyframe"])]  # type: ignore[arg-type]
        assert abs(near - 350) <= spacing
        starts.append(frames[0])
        lengths.append(frames[-1] - frames[0])
    assert len(set(starts)) > 3
    assert min(lengths) < 15 * 12 < max(lengths)
    oscc = build(tmp_path, OSCCConfig)
    assert len({oscc.draw_sample(1, SampleRandom(0, v, 1)).clips[0].frames for v in range(9)}) > 1


def test_even_frames_cover_a_short_window_to_its_end(tmp_path: Path) -> None:
    window = {"parent_start_frame": 302, "parent_end_frame": 347, "parent_end_sec": 11.6}
    short = CLIPS[0] | window | {"parent_pnr_frame": 345}
    (tmp_path / "fho.json").write_text(json.dumps({"clips": [short]}))
    published = build(tmp_path, PNRConfig)[0].clips[0].frames or ()
    even = build(tmp_path, PNRConfig, spacing="even")[0]
    frames = even.clips[0].frames or ()
    assert (len(published), published[-1]) == (16, 332)
    assert len(frames) == 16
    assert frames[-1] > 342
    assert even.labels["keyframe"] == 15


def test_frames_may_come_from_the_videos_themselves(tmp_path: Path) -> None:
    dataset = build(tmp_path, OSCCConfig, extracted=False, chunk_sec=10.0)
    video = dataset[0].clips[0].video
    assert video.place_of(300) == (tmp_path / "u" / "1.mp4", 0)
    assert dataset.chunk_of(0) == "u"


def test_a_broken_clip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fho.json"
    broken = {k: v for k, v in CLIPS[1].items() if k != "parent_end_sec"}
    path.write_text(json.dumps({"clips": [CLIPS[0], broken]}))
    with pytest.raises(ValueError, match="clip 1: 'parent_end_sec' is missing"):
        build(tmp_path, OSCCConfig)
    path.write_text(json.dumps({"clips": [CLIPS[0] | {"parent_end_frame": 300}]}))
    with pytest.raises(ValueError, match="clip 0: a: it ends where it begins"):
        build(tmp_path, OSCCConfig)
    path.write_text(json.dumps({"clips": [CLIPS[1]]}))
    with pytest.raises(ValueError, match="has no clip to use"):
        build(tmp_path, PNRConfig)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not an object"):
        build(tmp_path, OSCCConfig)
