from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egovl.data.datasets.configs import NarrationsConfig
from egovl.data.datasets.narrations import Narrations
from egovl.data.types import Span

ROWS = [
    ("u1", 12.31, 14.02, "#C C opens the drawer"),
    ("u1", -0.5, 1.0, ["C opens a drawer", "C pulls the drawer"]),
    ("u2", 3.0, 4.0, ["x", "y"], [3.1, 4.7]),
]


def write(path: Path, rows: list) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        texts = [[row[3]] if isinstance(row[3], str) else row[3] for row in rows]
        uids, starts, ends = ([row[k] for row in rows] for k in range(3))
        table = {"video_uid": uids, "start_sec": starts, "end_sec": ends, "text": texts}
        pq.write_table(pa.table(table), path)
    return path


def build(root: Path, *lists: Path, **options: object) -> Narrations:
    (root / "videos").mkdir(exist_ok=True)
    config = NarrationsConfig(
        annotations=lists,
        video_root=root / "videos",
        layout="lavila",
        **options,  # type: ignore[arg-type]
    )
    return config.build()


@pytest.mark.parametrize("name", ["list.pkl", "list.jsonl", "list.parquet"])
def test_the_three_formats_hold_the_same_rows(tmp_path: Path, name: str) -> None:
    dataset = build(tmp_path, write(tmp_path / name, ROWS))
    assert len(dataset) == 3
    assert dataset[0].texts == ("#C C opens the drawer",)
    assert dataset[0].clips[0].span == Span(12.31, 14.02)
    assert dataset[0].clips[0].video.chunk_file(1).parts[-2:] == ("u1.mp4", "300.mp4")
    assert dataset[1].texts == ("C opens a drawer", "C pulls the drawer")
    assert dataset[1].clips[0].span.start_sec == 0.0
    assert dataset[2].texts == ("x", "y")


def test_json_objects_with_field_names_are_rows_too(tmp_path: Path) -> None:
    row = {"end_sec": 2.0, "text": "t", "video_uid": "u", "start_sec": 1.0, "scores": [1]}
    (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n\n")
    assert build(tmp_path, tmp_path / "list.jsonl")[0].texts == ("t",)


def test_human_and_pseudo_labelled_lists_are_one_table_with_a_flag(tmp_path: Path) -> None:
    human = write(tmp_path / "a.pkl", ROWS[:1])
    rephrased = write(tmp_path / "b.jsonl", ROWS[1:2])
    narrated = write(tmp_path / "c.pkl", ROWS[2:])
    dataset = build(tmp_path, human, rephrased, pseudo=(narrated,), selection="concat")
    assert [dataset[i].labels["is_human"] for i in range(3)] == [1, 1, 0]
    assert dataset[2].texts == ("x. y",)
    assert dataset.time_order.tolist() == [1, 0, 2]


def test_numpy_numbers_of_a_pickle_are_numbers(tmp_path: Path) -> None:
    rows = [("u", np.float64(1.5), np.float32(2.5), "t", [np.float64(0.1)])]
    assert build(tmp_path, write(tmp_path / "list.pkl", rows))[0].clips[0].span == Span(1.5, 2.5)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a pickle ran')",)


def test_code_in_a_pickle_does_not_run_and_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "list.pkl", [("u", 1.0, 2.0, Evil())])
    with pytest.raises(ValueError, match="row 0: "):
        build(tmp_path, path)
    whole = tmp_path / "whole.pkl"
    whole.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a list of rows"):
        build(tmp_path, whole)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("u", 1.0, 2.0), "is no"),
        (("", 1.0, 2.0, "t"), "the video is ''"),
        (("u", 2.0, 2.0, "t"), "hold no time"),
        (("u", 1.0, 2.0, []), "the text is"),
        (("u", "x", 2.0, "t"), "could not convert"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: tuple, message: str) -> None:
    path = write(tmp_path / "list.pkl", [*ROWS, row])
    with pytest.raises(ValueError, match=rf"list\.pkl, row 3: .*{message}"):
        build(tmp_path, path)


def test_other_files_and_missing_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    with pytest.raises(ValueError, match="one of pkl, jsonl, parquet"):
        build(tmp_path, tmp_path / "list.txt")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match="lacks the columns"):
        build(tmp_path, tmp_path / "list.parquet")
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(ValueError, match="have no rows"):
        build(tmp_path, tmp_path / "empty.pkl")
