from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.nlq import NLQ, FeatureError, QueryBatch
from egovl.data.datasets.nlq_narrations import jitter_span, narration_rows
from egovl.data.datasets.nlq_rows import query_rows, read_rows, write_rows
from egovl.data.loader import LoaderError, build_eval_loader, build_train_loader
from egovl.data.randomness import SampleRandom
from tests.egovl.data.query_files import TEXT_WIDTH, WIDTH, question, write_questions

LOADER = LoaderConfig(batch_size=4, eval_batch_size=4, num_workers=0)


def spoil(folder: Path, name: str, row: int = 7) -> None:
    """Features that no writer of ours would write."""
    file = folder / f"{name}.npy"
    array = np.load(file)
    array[row] = np.nan
    np.save(file, array)


def batches(dataset: NLQ, config: LoaderConfig = LOADER) -> list[QueryBatch]:
    loader = build_eval_loader(dataset, config, None, rank=0, world_size=1)
    found = []
    for batch in loader:
        assert isinstance(batch, QueryBatch)
        found.append(batch)
    return found


def test_a_clip_that_several_queries_ask_about_is_in_a_batch_once(tmp_path: Path) -> None:
    dataset = NLQ(write_questions(tmp_path, [question(n, n, n + 5.0) for n in range(8)]))
    for batch in batches(dataset):
        assert len(batch.features) == len(set(batch.video_of_row.tolist()))
        assert batch.features.shape[1:] == (80, WIDTH)
        assert batch.text.shape[2] == TEXT_WIDTH
        for row, index in enumerate(batch.index.tolist()):
            own = dataset.features.read(dataset.rows[index].video_id)
            seen = batch.features[batch.video_of_row[row]]
            np.testing.assert_array_equal(seen.numpy(), own)
            start, end = (2 * x for x in dataset.rows[index].spans[0])  # type: ignore[index]
            assert batch.spans[row, 0].tolist() == pytest.approx([start, end])
    part = batches(dataset)[0][1:3]
    assert len(part.index) == len(part.text) == 2
    assert part.features.shape[0] == batches(dataset)[0].features.shape[0]


def test_bad_rows_are_named_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        question(0, 1, 5),
        question(1, 1, 5, text=" "),
        question(2, 50, 60),
        question(3, 9, 4),
        question(4, 39, 41),
        question(5, 1, 2) | {"video_id": "nowhere"},
    ]
    dataset = NLQ(write_questions(tmp_path, rows))
    assert [row.query_id for row in dataset.rows] == ["ann0_0", "ann4_0"]
    assert dataset.num_asked == 6
    for name, reason in (
        ("ann1_0", "text is empty"),
        ("ann2_0", "outside of its clip of 40.0 s"),
        ("ann3_0", "ends before it starts"),
        ("ann5_0", "video features of nowhere are not in"),
    ):
        note = next(note for note in dataset.notes if note.startswith(name))
        assert reason in note
    assert "4 of 6 queries are left out" in caplog.text


def test_a_query_whose_token_features_are_missing_is_named(tmp_path: Path) -> None:
    config = write_questions(tmp_path, [question(n, 1, 5) for n in range(3)])
    (config.text_features / "ann1_0.npy").unlink()
    dataset = NLQ(config)
    assert len(dataset) == 2
    assert "ann1_0: its token features are not in" in dataset.notes[0]


def test_features_that_are_no_numbers_stop_or_are_left_out_by_policy(tmp_path: Path) -> None:
    config = write_questions(tmp_path, [question(n, 1, 5) for n in range(9)])
    spoil(config.features, "clip1")
    dataset = NLQ(config)
    with pytest.raises(FeatureError, match="clip1: 1 of 80 rows hold NaN or infinity, first 7"):
        batches(dataset)
    skipping = replace(LOADER, on_error="skip", max_bad_fraction=0.5)
    answered = [i for batch in batches(dataset, skipping) for i in batch.index.tolist()]
    assert sorted(answered) == [0, 2, 3, 5, 6, 8]
    with pytest.raises(LoaderError, match="more than max_bad_fraction"):
        batches(dataset, replace(skipping, max_bad_fraction=0.1))


def test_training_draws_another_query_for_one_that_cannot_be_read(tmp_path: Path) -> None:
    config = write_questions(tmp_path, [question(n, 1, 5) for n in range(12)])
    spoil(config.features, "clip2")
    skipping = replace(LOADER, on_error="skip", max_bad_fraction=1.0)

    def indices() -> list[list[int]]:
        loader = build_train_loader(
            NLQ(config), skipping, None, seed=3, rank=0, world_size=1, start_sample=0
        )
        return [next(loader).index.tolist() for _ in range(4)]

    first = indices()
    assert all(len(batch) == 4 for batch in first)
    assert all(i % 3 != 2 for batch in first for i in batch)
    assert indices() == first


def test_a_video_above_max_steps_is_left_out_of_training(tmp_path: Path) -> None:
    config = replace(write_questions(tmp_path, [question(n, 1, 5) for n in range(4)]), max_steps=79)
    loader = build_train_loader(
        NLQ(config), LOADER, None, seed=3, rank=0, world_size=1, start_sample=0
    )
    with pytest.raises(FeatureError, match="has 80 rows, above 79"):
        next(loader)
    assert len(batches(NLQ(config))) == 1


def test_jitter_keeps_the_window_inside_and_is_the_same_at_every_visit() -> None:
    for index in range(50):
        low, high = jitter_span((10.0, 14.0), SampleRandom(0, 1, index))
        assert low <= 10.0 + 1e-9
        assert high >= 14.0 - 1e-9
        assert high - low <= 40.0 + 1e-9
        assert (low, high) == jitter_span((10.0, 14.0), SampleRandom(0, 1, index))


def test_rows_survive_being_written_and_keep_the_number_of_the_raw_list(tmp_path: Path) -> None:
    source = {
        "videos": [
            {
                "clips": [
                    {
                        "clip_uid": "c",
                        "video_start_sec": 5.0,
                        "video_end_sec": 45.0,
                        "annotations": [
                            {
                                "annotation_uid": "a",
                                "language_queries": [
                                    {"query": "", "clip_start_sec": 0, "clip_end_sec": 1},
                                    {"query": "x?", "clip_start_sec": 2, "clip_end_sec": 3},
                                    {"clip_start_sec": 2, "clip_end_sec": 3},
                                ],
                            }
                        ],
                    }
                ]
            }
        ]
    }
    rows = list(query_rows(source))
    assert [row.annotation for row in rows] == [("a", 1)]
    assert write_rows(tmp_path / "rows.jsonl", rows) == 1
    assert read_rows(tmp_path / "rows.jsonl") == rows
    (tmp_path / "raw.json").write_text(json.dumps(source))
    assert read_rows(tmp_path / "raw.json") == rows


def test_a_line_that_is_no_row_names_its_file_and_number(tmp_path: Path) -> None:
    good = json.dumps(question(0, 1, 2))
    unknown = json.dumps(question(1, 1, 2) | {"query_type": "vq"})
    for bad, reason in (
        ("{", "line 2"),
        (unknown, "query_type 'vq'"),
        ('{"query": 1}', "query_type"),
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text(f"{good}\n{bad}")
        with pytest.raises(ValueError, match=reason):
            read_rows(path)


def test_narrations_from_an_unknown_source_are_refused() -> None:
    header = "video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text\n"
    task = {
        "videos": [
            {
                "video_uid": "v",
                "clips": [{"clip_uid": "c", "video_start_sec": 0, "video_end_sec": 9}],
            }
        ]
    }
    lines = [header, "v\tnarration_pass_3\t0\t1\t2\t#C C x\n"]
    with pytest.raises(ValueError, match="narration_pass_3"):
        list(narration_rows(lines, [task]))
