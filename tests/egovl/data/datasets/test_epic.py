from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from egovl.data.datasets.configs import EpicClassificationConfig, EpicRetrievalConfig
from egovl.data.datasets.epic_retrieval import EpicRetrieval
from egovl.data.datasets.epic_rows import load_rows
from egovl.data.randomness import SampleRandom
from egovl.data.types import Span
from egovl.metrics.retrieval import class_relevancy
from tests.egovl.data.datasets.epic_files import ROWS, write_epic, write_sentences
from tests.real_data import EK100

SENTENCES = [(row[0], row[3]) for row in (ROWS[1], ROWS[0], ROWS[3])]


def retrieval(root: Path, **options: object) -> EpicRetrieval:
    config = EpicRetrievalConfig(
        annotations=write_epic(root / "EPIC.csv"),
        sentences=write_sentences(root / "sentences.csv", SENTENCES),
        video_root=root,
        **options,  # type: ignore[arg-type]
    )
    return config.build()


def test_rows_are_clips_with_their_own_narration(tmp_path: Path) -> None:
    dataset = retrieval(tmp_path)
    sample = dataset[1]
    (clip,) = sample.clips
    assert clip.video.path == tmp_path / "P01" / "P01_01.MP4"
    assert (clip.video.fps, clip.video.rounding) == (None, "outward")
    assert clip.span == Span(62.0, 64.5)
    assert sample.texts == ("take knife and fork",)
    assert dict(sample.labels) == {
        "row": 1,
        "verb": (0,),
        "noun": (4, 5),
        "sentence": 0,
        "relevancy": 1.0,
    }
    assert [dataset[i].labels["sentence"] for i in range(4)] == [1, 0, -1, 2]


def test_extracted_frames_are_addressed_by_the_tables_numbers(tmp_path: Path) -> None:
    (clip,) = retrieval(tmp_path, layout="frames")[1].clips
    assert clip.video.path == tmp_path / "P01_01"
    assert clip.frame_range == (3100, 3225)


def draws(dataset: EpicRetrieval, index: int) -> Counter[tuple[str, float]]:
    found: Counter[tuple[str, float]] = Counter()
    for visit in range(300):
        sample = dataset.draw_sample(index, SampleRandom(0, visit, index))
        found[sample.texts[0], float(sample.labels["relevancy"])] += 1  # type: ignore[arg-type]
    return found


def test_training_draws_among_the_relevant_sentences_with_their_relevancy(tmp_path: Path) -> None:
    found = draws(retrieval(tmp_path), 3)
    # row 3 takes a fork: verb alike, one of two nouns shared -> (1 + 1/2) / 2
    assert set(found) == {("take fork", 1.0), ("take knife and fork", 0.75)}
    assert min(found.values()) > 100
    assert set(draws(retrieval(tmp_path), 2)) == {("open door", 1.0)}


@pytest.mark.parametrize("kind", ["npy", "pkl"])
def test_a_released_matrix_replaces_the_classes(tmp_path: Path, kind: str) -> None:
    matrix = np.zeros((4, 3))
    matrix[3] = [0.0, 0.6, 0.1]
    path = tmp_path / f"relevancy.{kind}"
    if kind == "npy":
        np.save(path, matrix)
    else:
        path.write_bytes(pickle.dumps(matrix))
    dataset = retrieval(tmp_path, relevancy=path)
    assert set(draws(dataset, 3)) == {("open door", 0.6)}
    assert set(draws(dataset, 0)) == {("open door", 1.0)}, "nothing relevant: its own narration"
    np.save(tmp_path / "other.npy", matrix.T.copy())
    with pytest.raises(ValueError, match=r"is \(3, 4\), the annotations have 4 videos and 3"):
        retrieval(tmp_path, relevancy=tmp_path / "other.npy").draw_sample(0, SampleRandom(0, 0, 0))


def test_rows_of_relevancy_equal_the_metrics_whole_matrix(tmp_path: Path) -> None:
    dataset = retrieval(tmp_path)
    verbs, nouns = np.zeros((4, 97)), np.zeros((4, 300))
    for i in range(4):
        verbs[i, list(dataset[i].labels["verb"])] = 1  # type: ignore[arg-type]
        nouns[i, list(dataset[i].labels["noun"])] = 1  # type: ignore[arg-type]
    matrix = class_relevancy(verbs, nouns, dataset.sentence_rows)
    for i in range(4):
        np.testing.assert_allclose(dataset._relevancy_of(i), matrix[i], rtol=1e-6)


def test_sentences_of_another_split_and_broken_rows_are_named(tmp_path: Path) -> None:
    write_epic(tmp_path / "EPIC.csv")
    write_sentences(tmp_path / "s.csv", [("P09_01_0", "x")])
    config = EpicRetrievalConfig(
        annotations=tmp_path / "EPIC.csv", sentences=tmp_path / "s.csv", video_root=tmp_path
    )
    with pytest.raises(ValueError, match="first P09_01_0; the two belong to different splits"):
        config.build()
    text = (tmp_path / "EPIC.csv").read_text()
    (tmp_path / "EPIC.csv").write_text(text.replace('"[4, 5]"', '"[4, 300]"'))
    with pytest.raises(ValueError, match=r"EPIC\.csv, line 3: .*outside 97 and 300"):
        config.build()
    (tmp_path / "EPIC.csv").write_text(text.replace("00:01:02.000", "1:02"))
    with pytest.raises(ValueError, match=r"line 3: '1:02' is no HH:MM:SS"):
        config.build()


def test_actions_are_numbered_by_their_sorted_names(tmp_path: Path) -> None:
    train = write_epic(tmp_path / "train.csv", [("P02_01_0", 0.0, 1.0, "wash pan", 2, [10])])
    config = EpicClassificationConfig(
        annotations=write_epic(tmp_path / "val.csv"),
        action_tables=(train, tmp_path / "val.csv"),
        video_root=tmp_path,
    )
    dataset = config.build()
    # "0:4" < "0:5" < "2:10" < "3:3"
    assert dict(dataset[0].labels) == {"verb": 3, "noun": 3, "action": 3}
    assert dict(dataset[1].labels) == {"verb": 0, "noun": 4, "action": 0}
    assert dataset.class_texts["action"][3] == ("open door", "open the door")
    assert dataset.parts_of["action"] == {"verb": [0, 0, 2, 3], "noun": [4, 5, 10, 3]}
    assert dataset.num_classes == {"verb": 97, "noun": 300, "action": 4}
    lacking = EpicClassificationConfig(
        annotations=tmp_path / "val.csv", action_tables=(train,), video_root=tmp_path
    )
    with pytest.raises(ValueError, match="that action_tables lack"):
        lacking.build()


@pytest.mark.skipif(not EK100.is_dir(), reason=f"real annotations absent: no {EK100}")
def test_the_real_validation_set_has_its_published_size(tmp_path: Path) -> None:
    rows = load_rows(EK100 / "EPIC_100_validation.csv")
    assert len(rows) == 9668
    assert all(row.start_sec < row.stop_sec for row in rows)
    dataset = EpicRetrievalConfig(
        annotations=EK100 / "EPIC_100_validation.csv",
        sentences=EK100 / "EPIC_100_retrieval_test_sentence.csv",
        video_root=tmp_path,
    ).build()
    assert (len(dataset), len(dataset.sentence_rows)) == (9668, 3842)
    relevancy = dataset._relevancy_of(0)
    assert relevancy[dataset[0].labels["sentence"]] == 1.0  # type: ignore[index]
