"""Joined lists: LaViLa's pickle, json lines and Parquet hold the same, and trainings read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egovl.data.datasets.configs import NarrationsConfig
from egovl.data.pickled import load_plain
from egovl.narration.lists import write_lists


def record(index: int, texts: list[str]) -> dict[str, Any]:
    scores = [-0.5 * k for k, _ in enumerate(texts)]
    place = {"video_uid": f"v{index}", "start_sec": index + 0.25, "end_sec": index + 2.0}
    return {"index": index, "texts": texts, "scores": scores, "checkpoint": "ab12", **place}


@pytest.mark.parametrize("kind", ["pkl", "jsonl", "parquet"])
def test_every_kind_of_list_is_read_by_the_dataset(kind: str, tmp_path: Path) -> None:
    rows = [record(0, ["a", "b"]), record(1, []), record(2, ["c", "d"])]
    assert write_lists(rows, tmp_path) == 2
    (tmp_path / "videos").mkdir()
    dataset = NarrationsConfig(
        annotations=(tmp_path / f"total.{kind}",), video_root=tmp_path / "videos"
    ).build()
    assert [dataset[i].texts for i in range(len(dataset))] == [("a", "b"), ("c", "d")]
    assert dataset.place(1) == ("v2", 2.25, 4.0)


def test_one_text_a_clip_is_a_text_and_a_number_as_published(tmp_path: Path) -> None:
    write_lists([record(0, ["a"]), record(1, ["b"])], tmp_path)
    assert load_plain(tmp_path / "total.pkl") == [
        ("v0", 0.25, 2.0, "a", 0.0),
        ("v1", 1.25, 3.0, "b", 0.0),
    ]
    assert '"checkpoint": "ab12"' in (tmp_path / "total.jsonl").read_text()
