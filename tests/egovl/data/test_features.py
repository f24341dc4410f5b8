"""Feature stores: what is written is read back, with the facts of how it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egovl.data.features import FeatureFacts, FeatureFolder, FeatureWriter, open_features

FACTS = FeatureFacts(
    fps=7.5,
    window_frames=4,
    stride_frames=4,
    width=3,
    layer="cls",
    projection=True,
    weight_sha256="ab" * 32,
)


def test_what_is_written_is_read_back_with_its_facts(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path / "store", FACTS)
    rows = {"b": np.arange(6.0).reshape(2, 3), "P01/a": np.zeros((0, 3)), "c.mp4": np.ones((1, 3))}
    for name, array in rows.items():
        assert name not in writer
        writer.write(name, array)
        assert name in writer
    store = open_features(tmp_path / "store")
    assert store.facts == FACTS
    assert store.facts.features_per_sec == 1.875
    assert list(store.names()) == sorted(rows)
    for name, array in rows.items():
        assert store.read(name).dtype == np.float32
        np.testing.assert_array_equal(store.read(name), array)


def test_a_store_is_continued_only_with_the_same_facts(tmp_path: Path) -> None:
    FeatureWriter(tmp_path, FACTS).write("a", np.ones((1, 3)))
    FeatureWriter(tmp_path, FACTS).write("b", np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"fps 7\.5, now 30"):
        FeatureWriter(tmp_path, replace(FACTS, fps=30))
    assert open_features(tmp_path).names() == ["a", "b"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"shape \[3\]"),
        (np.ones((2, 4)), r"expected \[length, 3\]"),
        (np.full((1, 3), np.nan), "not finite"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureWriter(tmp_path, FACTS).write("a", array)
    assert FeatureFolder(tmp_path).names() == []


@pytest.mark.parametrize("name", ["", "../a", "/a", "a/../../b", ".hidden"])
def test_a_name_never_leaves_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a video"):
        FeatureWriter(tmp_path, FACTS).write(name, np.ones((1, 3)))


def test_a_missing_video_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    FeatureWriter(tmp_path, FACTS).write("a", np.ones((1, 3)))
    store = open_features(tmp_path)
    with pytest.raises(KeyError, match="no features of 'b'"):
        store.read("b")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"a\.npy is damaged"):
        store.read("a")


def test_bare_arrays_are_a_store_of_which_nothing_is_known(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 5), np.float16))
    store = open_features(tmp_path)
    assert store.facts == FeatureFacts()
    assert store.read("x").shape == (2, 5)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no features at"):
        open_features(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no features"):
        open_features(tmp_path)
