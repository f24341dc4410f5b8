from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from egovl.data.configs import EgoClipConfig, EgoMCQConfig
from egovl.data.datasets import egoclip_table
from egovl.data.datasets.egoclip_table import BadRowError
from egovl.data.types import Span
from tests.egovl.data.numbered_video import write_egoclip, write_egomcq

ROWS = [
    ("a", 1.5, 2.5, "#C C opens a drawer", [61], [140, 9]),
    ("a", 601.0, 602.0, "#C C lifts \u00e9 cup", [], []),
    ("b", 3.0, 4.0, "#O a man walks", [0], [581]),
    ("a", 31.0, 31.5, "#C C closes a drawer", [2, 3], [140]),
]


def config(folder: Path, **options: object) -> EgoClipConfig:
    (folder / "videos").mkdir(exist_ok=True)
    return EgoClipConfig(
        annotations=folder / "egoclip.csv",
        video_root=folder / "videos",
        **options,  # type: ignore[arg-type]
    )


def test_rows_become_samples(tmp_path: Path) -> None:
    write_egoclip(tmp_path / "egoclip.csv", ROWS)
    dataset = config(tmp_path).build()
    assert len(dataset) == 4
    sample = dataset[1]
    (clip,) = sample.clips
    assert clip.span == Span(601.0, 602.0)
    assert clip.video.chunk_file(1) == tmp_path / "videos" / "a" / "1.mp4"
    assert sample.texts == ("#C C lifts \u00e9 cup",)
    assert dict(sample.labels) == {"verb": [], "noun": []}
    assert dict(dataset[0].labels) == {"verb": [61], "noun": [140, 9]}
    assert [dataset[i].texts[0] for i in range(4)] == [row[3] for row in ROWS]
    assert dataset.label_sizes == {"verb": 118, "noun": 582}


def test_chunks_agree_one_by_one_and_at_once(tmp_path: Path) -> None:
    write_egoclip(tmp_path / "egoclip.csv", ROWS)
    for options in ({}, {"layout": "file"}, {"layout": "lavila"}):
        dataset = config(tmp_path, **options).build()
        at_once = dataset.chunk_numbers()
        single = [dataset.chunk_of(i) for i in range(4)]
        for i in range(4):
            for j in range(4):
                assert (at_once[i] == at_once[j]) == (single[i] == single[j])


def test_the_packed_copy_is_used_again_and_made_anew_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_egoclip(tmp_path / "egoclip.csv", ROWS)
    config(tmp_path).build()
    packed = set(tmp_path.glob("*.egoclip-*"))
    assert len(packed) == 1
    with monkeypatch.context() as patch:
        patch.setattr(egoclip_table, "_convert", lambda *_: 1 / 0)  # a second parse fails
        assert len(config(tmp_path).build()) == 4
    write_egoclip(table, ROWS[:2])
    os.utime(table, ns=(time.time_ns(), time.time_ns() + 1))
    assert len(config(tmp_path).build()) == 2
    assert not list(tmp_path.glob(".*")), "scratch folders or locks stay behind"


def test_the_packed_copy_goes_to_the_folder_asked_for(tmp_path: Path) -> None:
    write_egoclip(tmp_path / "egoclip.csv", ROWS)
    config(tmp_path, cache_folder=tmp_path / "cache").build()
    assert list((tmp_path / "cache").glob("*.egoclip-*"))
    assert not list(tmp_path.glob("*.egoclip-*"))


def test_a_pickled_dataset_maps_the_files_again(tmp_path: Path) -> None:
    write_egoclip(tmp_path / "egoclip.csv", ROWS)
    dataset = config(tmp_path).build()
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    assert pickle.loads(data)[3] == dataset[3]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({1: "x", 6: "2.5", 7: "2.5"}, "hold no time"),
        ({6: "3001", 7: "3002"}, "behind the video's end at 3000.0 s"),
        ({6: "one"}, "could not convert"),
        ({9: "__import__('os')"}, "not a list of class numbers"),
        ({9: "[118]"}, "class number of 118 or more"),
        ({1: ""}, "video_uid is empty"),
        ({10: "[1]\textra"}, "12 cells instead of 11"),
    ],
)
def test_a_bad_row_names_file_and_line_or_is_skipped_and_counted(
    tmp_path: Path, cells: dict[int, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_egoclip(tmp_path / "egoclip.csv", ROWS)
    lines = table.read_text().splitlines()
    values = lines[2].split("\t")
    for column, value in cells.items():
        values[column] = value
    lines[2] = "\t".join(values)
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadRowError, match=rf"egoclip\.csv, line 3: .*{message}"):
        config(tmp_path).build()
    dataset = config(tmp_path, on_bad_row="skip").build()
    assert [dataset[i].texts[0] for i in range(3)] == [ROWS[i][3] for i in (0, 2, 3)]
    assert "1 rows of" in caplog.text
    assert "line 3" in caplog.text


def test_a_start_before_zero_is_cut(tmp_path: Path) -> None:
    write_egoclip(tmp_path / "egoclip.csv", [("a", -0.25, 0.5, "t", [], [])])
    assert config(tmp_path).build()[0].clips[0].span == Span(0.0, 0.5)


def test_missing_and_empty_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"egoclip.csv does not exist"):
        config(tmp_path).build()
    (tmp_path / "egoclip.csv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        config(tmp_path).build()
    write_egoclip(tmp_path / "egoclip.csv", [])
    with pytest.raises(ValueError, match="has no rows"):
        config(tmp_path).build()
    (tmp_path / "egoclip.csv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        config(tmp_path).build()
    missing = EgoClipConfig(annotations=tmp_path / "egoclip.csv", video_root=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"video_root .*none is not a folder"):
        missing.build()


def test_negatives_share_video_and_window(tmp_path: Path) -> None:
    times = np.random.default_rng(0).uniform(0, 400, 60).round(2)
    rows = [("ab"[i % 2], t, t + 0.5, f"t{i}", [], []) for i, t in enumerate(times.tolist())]
    write_egoclip(tmp_path / "egoclip.csv", rows)
    dataset = config(tmp_path, neg_window_sec=60.0).build()
    for i in range(60):
        same = [j for j in range(60) if dataset.segment_of(j) == dataset.segment_of(i)]
        assert dataset.negative_pool(i).tolist() == same
        drawn = {
            dataset.partner(i, lambda low, high, k=k: low + k % (high - low + 1)) for k in same
        }
        assert drawn <= set(same)
        assert i not in drawn or same == [i]
    legacy = config(tmp_path, neg_window_sec=60.0, legacy_self_negative=True).build()
    i = next(i for i in range(60) if len(legacy.negative_pool(i)) > 2)
    pool = legacy.negative_pool(i).tolist()
    assert legacy.partner(i, lambda low, high: pool.index(i)) == i


def test_all_others_of_a_window_can_be_drawn(tmp_path: Path) -> None:
    rows = [("a", t, t + 0.5, "t", [], []) for t in (1.0, 2.0, 3.0, 4.0)]
    write_egoclip(tmp_path / "egoclip.csv", rows)
    dataset = config(tmp_path, neg_window_sec=60.0).build()
    drawn = [dataset.partner(2, lambda low, high, k=k: k) for k in range(3)]
    assert drawn == [0, 1, 3]


def mcq(folder: Path) -> EgoMCQConfig:
    (folder / "videos").mkdir(exist_ok=True)
    return EgoMCQConfig(annotations=folder / "egomcq.json", video_root=folder / "videos")


def test_questions_become_samples_of_five_clips(tmp_path: Path) -> None:
    write_egomcq(tmp_path / "egomcq.json", 12, ["a", "b", "c"])
    dataset = mcq(tmp_path).build()
    assert len(dataset) == 12
    sample = dataset[10]
    assert [clip.video.path.name for clip in sample.clips] == ["b", "c", "a", "b", "c"]
    assert [clip.span.start_sec for clip in sample.clips] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sample.texts == ("#C C does 10 0",)
    assert dict(sample.labels) == {"answer": 0, "type": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"answer": 1', '"answer": 7', "question 1: answer 7 of 5 choices"),
        ('"types": 2', '"types": 3', "question 1: types is 3"),
        ('"clip_start": 0.0', '"clip_start": 9.0', "question 0: span 9.0"),
        ('"clip_start": 0.0', '"clip_begin": 0.0', "question 0: 'clip_start' is missing"),
        ('"1": {"answer"', '"x": {"answer"', "keys are numbers"),
    ],
)
def test_a_broken_question_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_egomcq(tmp_path / "egomcq.json", 3, ["a"])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        mcq(tmp_path).build()


@pytest.mark.parametrize("content", ["", "{}", "{"])
def test_a_file_without_questions_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "egomcq.json").write_text(content)
    with pytest.raises(ValueError, match=r"egomcq\.json (has no questions|is not json)"):
        mcq(tmp_path).build()
