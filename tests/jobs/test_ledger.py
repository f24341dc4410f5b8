from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.errors import SubmitError
from jobs.ledger import Ledger, adopt_found, comment_tag, find_lost_job, record_job
from jobs.run_folder import RunFolder, create_json, read_json


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "no Slurm here"))
    return tmp_path / "runs"


def make_run(runs: Path, name: str = "a") -> RunFolder:
    run = RunFolder(runs / "pretrain" / name)
    create_json(run.run_json, {"schema": 1})
    return run


def killed_launch(runs: Path, run: RunFolder, token: str, executor: str) -> None:
    """A real process that writes its line and is gone."""
    code = (
        "import sys; from pathlib import Path; from jobs.ledger import Ledger;"
        "from jobs.run_folder import RunFolder; r, d, t, e = sys.argv[1:];"
        "Ledger(Path(r)).submitting(RunFolder(Path(d)), t, e)"
    )
    subprocess.run([sys.executable, "-c", code, str(runs), str(run.path), token, executor])


def test_only_submissions_whose_outcome_is_unknown_are_open(runs: Path) -> None:
    ledger, run = Ledger(runs), make_run(runs)
    assert ledger.open_submissions() == []
    for token in ("done", "refused", "open"):
        ledger.submitting(run, token, "slurm")
    ledger.submitted(run, "done", "slurm", "7")
    ledger.refused(run, "refused", "slurm")
    (entry,) = ledger.open_submissions()
    assert (entry.token, entry.run.path, entry.executor) == ("open", run.path, "slurm")
    assert (entry.host, entry.pid) == (os.uname().nodename, os.getpid())
    assert abs(entry.time - time.time()) < 60


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
def test_a_line_that_a_crash_cut_off_hides_no_other(runs: Path, cut: int) -> None:
    ledger, run = Ledger(runs), make_run(runs)
    ledger.submitting(run, "first", "slurm")
    whole = ledger.path.read_bytes()
    ledger.submitting(run, "torn", "slurm")
    torn = ledger.path.read_bytes()[len(whole) :]
    ledger.path.write_bytes(whole + torn[:cut])
    assert [entry.token for entry in ledger.open_submissions()][:1] == ["first"]
    ledger.submitting(run, "after", "slurm")
    tokens = [entry.token for entry in ledger.open_submissions()]
    assert tokens[0] == "first" and tokens[-1] == "after"
    ledger.submitted(run, "first", "slurm", "7")
    assert "first" not in [entry.token for entry in ledger.open_submissions()]
    assert ledger.find_event("after") == ("slurm", "submitting")


def test_a_job_in_the_queue_is_adopted_once_its_launcher_is_gone(runs: Path) -> None:
    run = make_run(runs)
    killed_launch(runs, run, "t", "slurm")
    adopt_found(runs, {comment_tag("other"): "6"})
    assert [entry.token for entry in Ledger(runs).open_submissions()] == ["t"]
    adopt_found(runs, {comment_tag("t"): "7"})
    assert (read_json(run.job_json("t")) or {})["job_id"] == "7"
    assert Ledger(runs).open_submissions() == []
    assert Ledger(runs).find_event("t") == ("slurm", "submitted")


def test_a_job_whose_run_is_gone_is_named_and_closed(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(runs)
    killed_launch(runs, run, "t", "slurm")
    shutil.rmtree(run.path)
    adopt_found(runs, {comment_tag("t"): "7"})
    assert f"job 7 belongs to {run.path}, which is gone" in caplog.text
    assert Ledger(runs).open_submissions() == []
    assert not run.path.exists()


def test_a_launch_under_way_is_left_alone(runs: Path) -> None:
    ledger, run = Ledger(runs), make_run(runs)
    found = {comment_tag("t"): "7", comment_tag("u"): "8"}
    with subprocess.Popen(["/bin/sleep", "30"]) as other:
        ledger._append(run, "t", "slurm", "submitting", host=os.uname().nodename, pid=other.pid)
        ledger._append(run, "u", "slurm", "submitting", host="elsewhere", pid=1)
        adopt_found(runs, found)
        assert [entry.token for entry in ledger.open_submissions()] == ["t", "u"]
        other.kill()
    adopt_found(runs, found)
    assert [entry.token for entry in ledger.open_submissions()] == ["u"]


def test_a_submission_that_slurm_never_had_is_no_job(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that does not answer says nothing of it."""
    folder = runs.parent / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    run = make_run(runs)
    killed_launch(runs, run, "t", "slurm")
    assert find_lost_job(run, "t") is None
    for name, script in (("sbatch", "exit 1"), ("squeue", "echo 'error: away' >&2; exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    with pytest.raises(SubmitError, match="away"):
        find_lost_job(run, "t")
    (folder / "squeue").write_text("#!/bin/sh\n")
    assert find_lost_job(run, "t") is None
    assert [entry.token for entry in Ledger(runs).open_submissions()] == ["t"]


def test_a_pickle_gets_the_name_under_which_the_job_looks_for_it(runs: Path) -> None:
    run = make_run(runs)
    run.submission.mkdir()
    names = ["0" * 32, "1" * 32]
    for name, token in zip(names, ("other", "mine"), strict=True):
        (run.submission / f"{name}.pkl").write_bytes(b"\x80\x04" + token.encode())
    record_job(run, "mine", "77", "slurm")
    assert (run.submission / "77_submitted.pkl").read_bytes().endswith(b"mine")
    assert (run.submission / f"{names[0]}.pkl").exists()
    assert (read_json(run.job_json("mine")) or {})["job_id"] == "77"


def test_a_long_ledger_is_read_in_no_time(runs: Path) -> None:
    ledger, run = Ledger(runs), make_run(runs)
    ledger.submitting(run, "open", "slurm")
    line = ledger.path.read_bytes()
    pairs = [
        line.replace(b"egovl-open", b"egovl-%d" % number).replace(b"submitting", event)
        for number in range(20_000)
        for event in (b"submitting", b"submitted")
    ]
    ledger.path.write_bytes(line + b"".join(pairs))
    assert [entry.token for entry in ledger.open_submissions()] == ["open"]
