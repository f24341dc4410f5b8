"""Shards: what many tasks wrote is read once, in order, whatever stopped in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from egovl.shards import ShardWriter, read_shards, share_of, unfinished_shards


def _records(*keys: str) -> list[dict[str, str]]:
    return [{"key": key, "text": key * 2} for key in keys]


def _keys(folder: Path) -> list[str]:
    return [record["key"] for record in read_shards(folder)]


@pytest.mark.parametrize(("total", "count"), [(0, 3), (2, 5), (10, 3), (12, 4)])
def test_shares_are_all_items_once_in_order(total: int, count: int) -> None:
    shares = [share_of(range(total), shard, count) for shard in range(count)]
    assert [item for share in shares for item in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="shard 3 of 3"):
        share_of([1], 3, 3)


def test_records_come_back_in_the_order_of_shard_and_part(tmp_path: Path) -> None:
    second, first = ShardWriter(tmp_path, 1, 2), ShardWriter(tmp_path, 0, 2)
    second.append(_records("c"))
    first.append(_records("a"))
    first.append(_records("b"))
    second.append(_records("d", "e"))
    assert list(read_shards(tmp_path)) == _records("a", "b", "c", "d", "e")


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    ShardWriter(tmp_path, 0, 1).append(_records("a", "b"))
    writer = ShardWriter(tmp_path, 0, 1)
    assert writer.finished_keys() == {"a", "b"}
    writer.append(_records("c"))
    assert _keys(tmp_path) == ["a", "b", "c"]


def test_another_number_of_shards_finds_what_the_first_number_finished(tmp_path: Path) -> None:
    ShardWriter(tmp_path, 1, 2).append(_records("x"))
    ShardWriter(tmp_path, 3, 4).append(_records("y"))
    assert ShardWriter(tmp_path, 0, 4).finished_keys() == {"x"}


def test_two_writers_of_one_shard_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    one, other = ShardWriter(tmp_path, 0, 1), ShardWriter(tmp_path, 0, 1)
    one.append(_records("a", "b"))
    other.append(_records("b", "c"))
    assert sorted(_keys(tmp_path)) == ["a", "b", "c"]


def test_marks_say_which_shards_are_whole_until_more_is_appended(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 1, 3)
    writer.append(_records("a"))
    assert unfinished_shards(tmp_path, 3) == [0, 1, 2]
    writer.close()
    assert unfinished_shards(tmp_path, 3) == [0, 2]
    writer.append([])
    assert unfinished_shards(tmp_path, 3) == [0, 2]
    writer.append(_records("b"))
    assert unfinished_shards(tmp_path, 3) == [0, 1, 2]


def test_a_record_without_a_key_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 0, 1)
    with pytest.raises(ValueError, match="needs a text 'key'"):
        writer.append([*_records("a"), {"key": 7}])
    with pytest.raises(TypeError):
        writer.append([{"key": "b", "value": object()}])
    assert _keys(tmp_path) == []


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    ShardWriter(tmp_path, 0, 1).append(_records("a"))
    [part] = tmp_path.rglob("*.jsonl")
    part.write_text('{"key": "a"}\n{"ke')
    with pytest.raises(ValueError, match=rf"{part.name}, line 2"):
        list(read_shards(tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        list(read_shards(tmp_path / "absent"))


def _write_until_killed(folder: Path) -> None:
    writer = ShardWriter(folder, 0, 1)
    number = len(writer.finished_keys())
    while True:
        writer.append([{"key": f"{number}:{row}"} for row in range(50)])
        number += 50


def test_a_killed_writer_leaves_whole_parts_only(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        writer = context.Process(target=_write_until_killed, args=(tmp_path,))
        writer.start()
        writer.join(0.3)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    keys = _keys(tmp_path)
    assert keys
    assert len(keys) % 50 == 0
    assert len(set(keys)) == len(keys)
