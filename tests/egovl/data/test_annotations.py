from __future__ import annotations

import multiprocessing
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from egovl.data import annotations
from egovl.data.annotations import ClipTable, ClipTableWriter, Conversion, converted


def write_rows(count: int, folder: Path) -> None:
    """Rows of 7 videos at random times, text and tags that name the row."""
    generator = np.random.default_rng(0)
    writer = ClipTableWriter(folder, {"text": pa.large_string(), "tags": pa.list_(pa.int16())})
    for row in range(count):
        start = float(generator.uniform(0, 900))
        uid = f"v{generator.integers(0, 7)}"
        writer.add(
            uid, start, start + 1, start + 0.5, text=f"row {row}", tags=[row % 5] * (row % 3)
        )
    writer.close()


def write_with_mark(count: int, marks: Path, folder: Path) -> None:
    (marks / folder.name).touch()
    write_rows(count, folder)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipTable:
    monkeypatch.setattr(annotations, "_BATCH_ROWS", 64)  # several batches
    write_rows(500, tmp_path)
    return ClipTable(tmp_path)


def test_rows_come_back_as_they_were_written(table: ClipTable) -> None:
    assert len(table) == 500
    for row in (0, 63, 64, 127, 128, 499):
        assert table.value("text", row) == f"row {row}"
        assert table.value("tags", row) == [row % 5] * (row % 3)
        assert table.uid(row).startswith("v")
        assert table.end_sec[row] == table.start_sec[row] + 1


def test_the_orders_go_by_video_and_then_time(table: ClipTable) -> None:
    expected = sorted(range(500), key=lambda r: (table.video[r], table.start_sec[r]))
    assert table.by_start.tolist() == expected
    for video in range(len(table.first) - 1):
        rows = table.by_time[table.first[video] : table.first[video + 1]]
        assert set(table.video[rows].tolist()) == {video}
        assert (np.diff(table.time_sec[rows]) >= 0).all()


@pytest.mark.parametrize("window_sec", [1.0, 60.0, 1e6])
def test_neighbours_in_a_window_equal_a_search_through_all_rows(
    table: ClipTable, window_sec: float
) -> None:
    window = table.time_sec // window_sec
    for row in range(0, 500, 7):
        same = (table.video == table.video[row]) & (window == window[row])
        assert table.same_window(row, window_sec).tolist() == np.flatnonzero(same).tolist()


def test_columns_are_mapped_and_a_pickle_carries_the_folder_only(table: ClipTable) -> None:
    assert not table.start_sec.flags.owndata
    assert not table.by_time.flags.writeable
    data = pickle.dumps(table)
    assert len(data) < 500
    assert pickle.loads(data).value("text", 7) == "row 7"


def test_a_changed_file_version_or_option_is_converted_anew(tmp_path: Path) -> None:
    source, marks = tmp_path / "rows.csv", tmp_path / "marks"
    marks.mkdir()
    source.write_text("1")

    def folder(version: int = 1, options: str = "") -> Path:
        write = partial(write_with_mark, 10, marks)
        return converted([source], Conversion("test", version, options, write), tmp_path / "cache")

    first = folder()
    assert folder() == first
    assert len(list(marks.iterdir())) == 1
    assert folder(version=2) != first
    assert folder(options="x") != first
    source.write_text("12")
    assert folder() != first
    assert len(list(marks.iterdir())) == 4
    leftovers = [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")]
    assert not leftovers, "scratch folders and locks are gone"


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("row 7 is broken")

    source = tmp_path / "rows.csv"
    source.touch()
    with pytest.raises(ValueError, match="row 7 is broken"):
        converted([source], Conversion("test", 1, "", fail), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_processes_that_start_at_once_convert_once_and_all_read_it(tmp_path: Path) -> None:
    source, marks = tmp_path / "rows.csv", tmp_path / "marks"
    source.touch()
    marks.mkdir()
    conversion = Conversion("test", 1, "", partial(write_with_mark, 3000, marks))
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folders = pool.starmap(converted, [([source], conversion, tmp_path / "cache")] * 3)
    assert len(set(folders)) == 1
    assert len(list(marks.iterdir())) == 1
    assert len(ClipTable(folders[0])) == 3000


def test_a_folder_that_cannot_be_written_gives_way_to_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, "_private_folder", lambda: tmp_path / "private")
    (tmp_path / "data").mkdir()
    source = tmp_path / "data" / "rows.csv"
    source.touch()
    blocked = tmp_path / "data" / "file"
    blocked.touch()  # not even root can make a folder below a file
    write = partial(write_rows, 10)
    folder = converted([source], Conversion("test", 1, "", write), blocked / "cache")
    assert folder.parent == tmp_path / "private"


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    conversion = Conversion("test", 1, "", partial(write_rows, 1))
    with pytest.raises(FileNotFoundError, match=r"annotations .*none\.csv does not exist"):
        converted([tmp_path / "none.csv"], conversion)
