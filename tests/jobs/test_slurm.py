from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs import slurm
from jobs.errors import SubmitError


def test_fields_of_scontrol_keep_blanks_and_equal_signs_in_values() -> None:
    line = (
        "JobId=7 JobName=two words UserId=me(1) JobState=RUNNING Reason=None "
        "Comment=a=b,c=d Command=/x/y z.sh Restarts=2 TRES=cpu=4,node=2 NodeList=n[1-2]"
    )
    fields = slurm.parse_fields(line)
    assert fields["JobName"] == "two words"
    assert fields["JobState"] == "RUNNING"
    assert fields["Comment"] == "a=b,c=d"
    assert fields["Command"] == "/x/y z.sh"
    assert fields["Restarts"] == "2"
    assert fields["NodeList"] == "n[1-2]"


@pytest.mark.parametrize(
    ("listed", "held"),
    [
        ("3", [3]),
        ("0-2%4", [0, 1, 2]),
        ("1,4-8:2,11", [1, 4, 6, 8, 11]),
        ("4294967294", []),  # of an array all of whose members were cancelled
        ("", []),
        ("N/A", []),
    ],
)
def test_lists_of_array_members_are_understood(listed: str, held: list[int]) -> None:
    assert [task for task in range(20) if slurm.holds_task(listed, task)] == held


def test_times_that_slurm_does_not_know_are_none() -> None:
    assert slurm.parse_time("2026-11-20T12:00:00") is not None
    assert [slurm.parse_time(text) for text in ("Unknown", "None", "N/A", "", None)] == [None] * 5


def test_submission_hides_the_present_job_but_keeps_where_slurm_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURMD_NODENAME", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "old")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    before = dict(os.environ)
    with slurm.outside_any_job({"EXTRA": "1"}):
        assert not any(name.startswith(("SLURM_JOB", "SLURM_CPU")) for name in os.environ)
        assert "SLURMD_NODENAME" not in os.environ
        assert "SUBMITIT_EXECUTOR" not in os.environ
        assert os.environ["SLURM_CONF"] == "/etc/slurm.conf"
        assert os.environ["SBATCH_ACCOUNT"] == "mine"
        assert os.environ["EXTRA"] == "1"
    assert dict(os.environ) == before


def test_environment_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(ValueError, match="inside"), slurm.outside_any_job():
        raise ValueError("inside")
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_machine_without_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.slurm_answers()
    assert slurm.cluster_name() is None
    with pytest.raises(SubmitError, match="scontrol is not on this machine's PATH"):
        slurm.show_job("1")


def test_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmitError, match=r"no answer in 0\.2 s"):
        slurm._run(["sinfo"], timeout_sec=0.2)  # pyright: ignore[reportPrivateUsage]
