"""Asking the accounting seldom, at once for all, and living without it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.accounting import MEMORY, find_ends
from jobs.run_folder import read_json, write_json_atomic


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `sacct` that knows job 1 and takes 3 for running; the file counts its calls."""
    calls = tmp_path / "calls"
    calls.write_text("")
    program = tmp_path / "bin" / "sacct"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n'
        'echo "1|1|CANCELLED by 0"; echo "3|3|RUNNING"; echo "5_2|9|NODE_FAIL"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return calls


def count(calls: Path) -> int:
    return len(calls.read_text().splitlines())


def test_all_jobs_are_asked_for_at_once_and_answers_are_kept(tmp_path: Path, calls: Path) -> None:
    wanted = ["1", "2", "3", "5_2", "9"]
    ends = {"1": "CANCELLED", "5_2": "NODE_FAIL", "9": "NODE_FAIL"}
    for _ in range(3):
        assert find_ends(tmp_path, wanted) == ends
    assert count(calls) == 1
    assert "--jobs=1,2,3,5_2,9" in calls.read_text()
    find_ends(tmp_path, [*wanted, "4"])
    assert calls.read_text().splitlines()[1].endswith("--jobs=4")


def test_a_job_that_it_does_not_know_is_asked_for_again_later(tmp_path: Path, calls: Path) -> None:
    assert find_ends(tmp_path, ["2"]) == {}
    memory = read_json(tmp_path / MEMORY) or {}
    memory["ends"]["2"][1] -= 3600
    write_json_atomic(tmp_path / MEMORY, memory)
    find_ends(tmp_path, ["2"])
    assert count(calls) == 2


def test_without_accounting_it_is_asked_ever_less_often(tmp_path: Path, calls: Path) -> None:
    program = tmp_path / "bin" / "sacct"
    program.write_text(f"#!/bin/sh\necho x >> {calls}\necho disabled >&2\nexit 1\n")
    waits: list[float] = []
    for number in range(1, 9):
        assert find_ends(tmp_path, ["1"]) == {}
        assert find_ends(tmp_path, ["1"]) == {}
        assert count(calls) == number
        memory = read_json(tmp_path / MEMORY) or {}
        waits.append(round(memory["not_before"] - time.time()))
        write_json_atomic(tmp_path / MEMORY, {**memory, "not_before": 0})
    assert waits == sorted(waits)
    assert 55 < waits[0] <= 60 and 3590 < waits[-1] <= 3600


def test_a_machine_without_sacct_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ends(tmp_path, ["1"]) == {}
