"""Questions to Slurm's programs: several at once, answered once, given up in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs import slurm
from jobs.errors import SubmitError
from jobs.query import Query


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `scontrol` that notes each question and takes half a second to answer."""
    calls, program = tmp_path / "calls", tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    answer = 'echo "$@" >> ' + str(calls) + "; sleep 0.5; echo ClusterName = here"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    (program.parent / "sbatch").symlink_to(program)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "_asked_ahead", None)
    return calls


def test_questions_are_under_way_at_once_and_each_is_answered_as_often_as_it_is_read(
    asked: Path,
) -> None:
    start = time.monotonic()
    queries = [Query(["scontrol", "show", str(number)]) for number in range(4)]
    assert [query.wait().stdout for query in (*queries, *queries)] == ["ClusterName = here\n"] * 8
    assert time.monotonic() - start < 4 * 0.5
    assert sorted(asked.read_text().split("\n")) == ["", *(f"show {n}" for n in range(4))]


def test_launch_asks_for_the_configuration_once(asked: Path) -> None:
    slurm.ask_ahead()
    assert slurm.cluster_name() == "here"
    assert slurm.ask_configuration()() == {"ClusterName": "here"}
    assert asked.read_text() == "show config\n"


def test_program_that_hangs_is_ended_and_named() -> None:
    with pytest.raises(SubmitError, match=r"sleep 60: no answer in 0\.2 s"):
        Query(["sleep", "60"], timeout_sec=0.2).wait()


def test_configuration_without_slurm_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    read = slurm.ask_configuration()
    with pytest.raises(SubmitError, match="scontrol is not on this machine's PATH"):
        read()
