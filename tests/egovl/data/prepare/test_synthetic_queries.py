from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from egovl.__main__ import main
from egovl.data.datasets.nlq_rows import read_rows
from egovl.data.decode import open_reader
from egovl.data.manifest import load_manifest
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic_plan import NOUNS, plan_videos
from egovl.data.prepare.synthetic_queries import QueryCounts, write_queries

CONFIG = SyntheticConfig(train_videos=5, eval_videos=5)
COUNTS = QueryCounts(train=2, narrated=1, val=1, test=1)


@pytest.fixture(scope="module")
def queries(corpus: Path) -> Path:
    return write_queries(plan_videos(CONFIG), corpus, CONFIG.seed, COUNTS)


def test_a_chained_clip_has_the_pixels_of_the_videos_it_is_made_of(
    corpus: Path, queries: Path
) -> None:
    videos = load_manifest(queries / "manifest.jsonl")
    assert len(videos) == 5
    name, video = next(iter(videos.items()))
    reader = open_reader(queries / "videos" / f"{name}.mp4")
    assert reader.num_frames == video.num_frames
    places = list(range(0, reader.num_frames, 7))
    frames = reader.read(places)
    plans = {plan.uid: plan for plan in plan_videos(CONFIG)}
    sources = [
        open_reader(corpus / "videos" / uid / "0.mp4").read(list(range(plan.num_frames)))
        for uid, plan in plans.items()
    ]
    known = {picture.tobytes() for source in sources for picture in source}
    assert all(frame.tobytes() in known for frame in frames)
    again = reader.read(places[5:6])
    np.testing.assert_array_equal(again[0], frames[5])


def test_every_object_is_asked_about_once_a_clip_and_answered_inside_of_it(queries: Path) -> None:
    rows = read_rows(queries / "nlq_train.json")
    raw = json.loads((queries / "nlq_train.json").read_text())
    clips = {clip["clip_uid"]: clip for video in raw["videos"] for clip in video["clips"]}
    asked = [
        query
        for clip in clips.values()
        for annotation in clip["annotations"]
        for query in annotation["language_queries"]
    ]
    assert len(asked) > len(rows)  # some are empty, as in the released files
    for row in rows:
        assert row.spans is not None
        ((start, end),) = row.spans
        assert 0 <= start < end <= row.duration_sec
        assert sum(noun in row.query for noun in NOUNS) == 1
    texts = [(row.video_id, noun) for row in rows for noun in NOUNS if noun in row.query]
    assert len(texts) == len(set(texts))


def test_the_steps_of_the_command_line_make_rows_of_questions_and_narrations(
    queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--annotations", str(queries), "--egoclip", str(queries / "egoclip.csv")]
    assert main(["prepare", "queries", *words, "--out", str(tmp_path)]) == 0
    assert "train+val" in capsys.readouterr().out
    narrations = read_rows(tmp_path / "narrations_train.jsonl")
    clips = {row.video_id for row in narrations}
    assert len(clips) == COUNTS.train + COUNTS.narrated
    for row in narrations:
        ((start, end),) = row.spans or ()
        assert 0 < start < end < row.duration_sec
    train = read_rows(tmp_path / "ego4d_nlq_train_v2.jsonl")
    val = read_rows(tmp_path / "ego4d_nlq_val_v2.jsonl")
    assert read_rows(tmp_path / "ego4d_nlq_train+val_v2.jsonl") == train + val
    assert all(row.spans is None for row in read_rows(tmp_path / "ego4d_nlq_test_v2.jsonl"))
    missing = ["--annotations", str(tmp_path), "--out", str(tmp_path)]
    assert main(["prepare", "queries", *missing]) == 2
    assert "nlq_train.json" in capsys.readouterr().err
