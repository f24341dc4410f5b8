from __future__ import annotations

import json
from pathlib import Path

import pytest

from egovl.data.datasets.configs import EpisodicConfig
from egovl.data.datasets.episodic import EpisodicWindows, dense_frame_ids, load_episodic_clips


def clip(uid: str, start: float, end: float, queries: list[str | None]) -> dict[str, object]:
    asked = [{"query": query} for query in queries]
    return {
        "clip_uid": uid,
        "video_start_sec": start,
        "video_end_sec": end,
        "annotations": [{"language_queries": asked}],
    }


def build(root: Path) -> EpisodicWindows:
    videos = [
        {"video_uid": "v1", "clips": [clip("c1", 0.0, 9.0, ["where?", None, "what?"])]},
        {"video_uid": "v2", "clips": [clip("c2", 10.0, 22.5, []), clip("c3", 3.0, 4.0, [])]},
    ]
    (root / "nlq.json").write_text(json.dumps({"videos": videos}))
    return EpisodicConfig(annotations=root / "nlq.json", video_root=root).build()


def test_every_clip_is_cut_into_windows_of_four_frames(tmp_path: Path) -> None:
    dataset = build(tmp_path)
    assert len(dataset) == 17 + 23 + 2
    seen = [(dataset[i].labels["video"], dataset[i].labels["window"]) for i in range(len(dataset))]
    assert seen == [(c, w) for c, n in enumerate((17, 23, 2)) for w in range(n)]
    frames = [f for i in range(17, 40) for f in dataset[i].clips[0].frames or ()]
    assert frames == dense_frame_ids(10.0, 22.5, 10**9, 12.5 * 1.87 * 4 + 1)[: 23 * 4]
    assert dataset[40].clips[0].video.path == tmp_path / "v2.mp4"
    assert dataset.chunk_of(16) == "v1"
    assert dataset.chunk_of(17) == "v2"
    assert dataset.names == ["c1", "c2", "c3"]
    some = dataset.only({"c3"})
    assert (some.names, len(some), some.num_windows(0)) == (["c3"], 2, 2)


def test_clips_that_no_feature_fits_into_or_that_contradict_each_other(tmp_path: Path) -> None:
    def write(*clips: dict[str, object]) -> EpisodicConfig:
        content = {"videos": [{"video_uid": "v", "clips": list(clips)}]}
        (tmp_path / "moments.json").write_text(json.dumps(content))
        return EpisodicConfig(annotations=tmp_path / "moments.json", video_root=tmp_path)

    same = clip("c1", 0.0, 9.0, [])
    assert write(same, same | {"annotations": []}, clip("c2", 0.0, 0.2, [])).build().names == ["c1"]
    with pytest.raises(ValueError, match="c1 is listed twice, with other times"):
        write(same, clip("c1", 1.0, 9.0, [])).build()
    with pytest.raises(ValueError, match="no clip is long enough"):
        write(clip("c2", 0.0, 0.2, [])).build()
    with pytest.raises(ValueError, match="window_frames is 0"):
        EpisodicConfig(annotations=tmp_path / "x", video_root=tmp_path, window_frames=0)


def test_queries_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    build(tmp_path)
    assert load_episodic_clips(tmp_path / "nlq.json")[0].queries == ("where?", "what?")
    (tmp_path / "nlq.json").write_text(json.dumps({"videos": [{"video_uid": "v", "clips": [{}]}]}))
    with pytest.raises(ValueError, match=r"clip 0: .* is missing"):
        load_episodic_clips(tmp_path / "nlq.json")
