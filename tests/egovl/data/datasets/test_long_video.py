"""Clips over a long video, HowTo100M's rows, questions on summaries, coming actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egovl.data.datasets.long_video import spread_clips
from egovl.data.datasets.long_video_configs import (
    AnticipationConfig,
    HowTo100MConfig,
    SpreadConfig,
    SummaryMCQConfig,
)
from egovl.data.sampling import VideoFacts, place_range_frames

HEADER = "video_uid\tclip_start\tclip_end\tfps\tlabel\n"


@pytest.mark.parametrize("span", [(0.0, 300.0), (590.0, 640.0), (10.0, 18.5), (0.0, 0.5)])
def test_clips_march_forward_inside_the_video(span: tuple[float, float]) -> None:
    clips = spread_clips(*span, SpreadConfig())
    assert len(clips) == 16
    assert all(span[0] <= start < end <= span[1] for start, end in clips)
    assert clips == sorted(clips)
    assert {round(end - start, 6) for start, end in clips} == {min(8.0, span[1] - span[0])}


def test_the_legacy_rule_marches_backwards_in_short_videos() -> None:
    clips = spread_clips(10.0, 14.0, SpreadConfig(legacy_backwards=True))
    assert clips[0] == (10.0, 14.0) and clips[-1] == (9.0, 13.0)
    assert all(min(pair) >= 0 for pair in spread_clips(0, 0.5, SpreadConfig(legacy_backwards=True)))


def test_one_clip_starts_where_the_video_does() -> None:
    assert spread_clips(5.0, 60.0, SpreadConfig(num_clips=1)) == [(5.0, 13.0)]


def howto(folder: Path, rows: str, **options: Any) -> HowTo100MConfig:
    file = folder / "howto.csv"
    file.write_text(HEADER + rows)
    return HowTo100MConfig(annotations=file, video_root=folder, **options)


def test_howto100m_reads_rows_of_the_first_classes(tmp_path: Path) -> None:
    rows = "x.mp4\t0\t700\t25\t99\ny.webm\t3\t40\t30\t100\nz.mp4\t0.5\t40\t29.97\t0\n"
    dataset = howto(tmp_path, rows).build()
    assert [dataset[i].labels["label"] for i in range(len(dataset))] == [99, 0]
    assert dataset[0].clips[0].video.path == tmp_path / "x.mp4"
    assert dataset[1].clips[0].video.fps == 29.97
    assert len(howto(tmp_path, rows, num_classes=101).build()) == 3


def test_a_late_clip_of_a_long_video_is_read_where_it_is_unless_legacy(tmp_path: Path) -> None:
    found = []
    for legacy in (False, True):
        dataset = howto(tmp_path, "x.mp4\t0\t900\t30\t1\n", legacy_wrap=legacy).build()
        clip = dataset[0].clips[-1]
        places = place_range_frames(clip.video, clip.span, 4, lambda _: VideoFacts(27000, 30.0))
        found.append([frame for _, frame in places])
    assert found[0][0] > 18000
    assert found[1] == [frame - 18000 for frame in found[0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x.mp4\t5\t5\t30\t1\n", "line 2.*hold no time"),
        ("x.mp4\t0\t5\t0\t1\n", "line 2.*fps 0"),
        ("x.mp4\t0\t5\t30\t500\n", "no row of the first 100"),
    ],
)
def test_broken_howto100m_rows_are_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        howto(tmp_path, rows).build()


def question(answer: int, videos: list[tuple[str, float, float]]) -> dict[str, Any]:
    choices = {
        str(k): {"video_uid": uid, "clip_start": start, "clip_end": end, "clip_text": uid}
        for k, (uid, start, end) in enumerate(videos)
    }
    query = {"clip_text": f"#Summary {videos[answer][0]}"}
    return {"answer": answer, "types": 3, "query": query, "choices": choices}


def mcq(folder: Path, questions: list[dict[str, Any]]) -> SummaryMCQConfig:
    file = folder / "mcq.json"
    file.write_text(json.dumps({str(i): q for i, q in enumerate(questions)}))
    return SummaryMCQConfig(annotations=file, video_root=folder)


def test_every_video_of_the_questions_is_one_sample(tmp_path: Path) -> None:
    a, b, c = ("a", 0.0, 60.0), ("a", 60.0, 90.0), ("b", 0.0, 60.0)
    dataset = mcq(tmp_path, [question(1, [a, b, c]), question(0, [c, b, a])]).build()
    assert len(dataset) == 3
    asked = dataset.questions
    assert asked.queries == ["#Summary a", "#Summary b"]
    assert asked.answers.tolist() == [1, 0]
    assert asked.choices.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert dataset[1].clips[0].span.start_sec == 60.0
    assert dataset.chunk_of(2) == "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": 1}, "question 0.*types is 1"),
        ({"answer": 4}, "question 0.*answer 4"),
        ({"query": {}}, "clip_text.*missing"),
    ],
)
def test_a_broken_question_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    entry = question(0, [("a", 0.0, 60.0), ("b", 0.0, 9.0)]) | changes
    with pytest.raises(ValueError, match=message):
        mcq(tmp_path, [entry]).build()


def lta(folder: Path, count: int, **options: Any) -> AnticipationConfig:
    actions = [
        {
            "video_uid": "v",
            "clip_uid": "c",
            "clip_parent_start_sec": 100.0,
            "action_idx": i,
            "action_clip_start_sec": float(i),
            "action_clip_end_sec": i + 1.0,
            "verb_label": i,
            "noun_label": 10 * i,
        }
        for i in reversed(range(count))
    ]
    file = folder / "lta.json"
    file.write_text(json.dumps({"clips": actions}))
    return AnticipationConfig(
        annotations=file, video_root=folder, num_observed=3, num_future=2, **options
    )


def test_a_place_has_the_actions_before_it_as_clips_and_those_behind_it_as_labels(
    tmp_path: Path,
) -> None:
    dataset = lta(tmp_path, 7).build()
    assert len(dataset) == 3
    sample = dataset[1]
    assert [clip.span.start_sec for clip in sample.clips] == [101.0, 102.0, 103.0]
    assert dict(sample.labels) == {"verb": [4, 5], "noun": [40, 50], "num_clips": 3}


def test_a_place_with_fewer_actions_is_left_out_or_masked(tmp_path: Path) -> None:
    dataset = lta(tmp_path, 7, short_start="repeat").build()
    assert len(dataset) == 5
    assert dataset[0].labels["num_clips"] == 1 and len(dataset[0].clips) == 3
    with pytest.raises(ValueError, match="no clip has 3 actions and 2 more"):
        lta(tmp_path, 4).build()
