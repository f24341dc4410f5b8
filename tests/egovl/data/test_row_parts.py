from __future__ import annotations

from pathlib import Path

import numpy as np

from egovl.data.row_parts import RowParts

ROWS = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)


def write(parts: RowParts, *index: int) -> str:
    return parts.write(np.array(index), ROWS[list(index)])


def test_parts_of_many_processes_become_one_file(tmp_path: Path) -> None:
    file = tmp_path / "clips.npy"
    one, other = RowParts(file, 7), RowParts(file, 7)
    assert one.first_missing() == 0 and one.names() == []
    names = [write(one, 0, 2), write(other, 1, 3), write(one, 6)]
    assert one.first_missing() == 4
    names.append(write(other, 5, 4, 3))  # a row may come twice
    assert one.first_missing() == 7
    assert sorted(names) == other.names()
    assert other.join(names) == 0
    assert np.array_equal(np.load(file), ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["clips.npy"]


def test_an_array_that_lacks_rows_is_not_made_and_loses_no_part(tmp_path: Path) -> None:
    parts = RowParts(tmp_path / "clips.npy", 7)
    assert parts.join([]) == 7
    names = [write(parts, 0, 1, 2), write(parts, 6)]
    assert parts.join(names) == 3
    assert parts.names() == sorted(names)
    assert not (tmp_path / "clips.npy").exists()


def test_a_half_written_part_is_none(tmp_path: Path) -> None:
    parts = RowParts(tmp_path / "clips.npy", 7)
    whole = tmp_path / ".clips.npy.parts" / write(parts, 0, 1)
    whole.with_name(f".{whole.name}.123").write_bytes(whole.read_bytes()[:40])
    assert parts.names() == [whole.name]
    assert parts.first_missing() == 2
