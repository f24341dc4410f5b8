"""Staying beside a run: logs, metrics and states over its attempts, until it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.follow import describe_metrics, follow
from jobs.log_tail import LogTail
from jobs.node import process_start
from jobs.run_folder import RunFolder
from tests.jobs.commands import ROOT
from tests.jobs.launched_runs import make_launched, token_of, train_lines, write

NAME = "pretrain/base-aa"
POLL_SEC = 0.02


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A local run whose process is this one."""
    monkeypatch.setenv("PATH", "/nonexistent")  # no Slurm is asked
    here = str(os.getpid())
    run = make_launched(tmp_path, NAME, "running", here, executor="local")
    job = {"job_id": here, "executor": "local", "host": os.uname().nodename}
    job["process_start"] = process_start(os.getpid())
    write(run.job_json(token_of(NAME)), job)
    run.attempt(1).logs.mkdir(parents=True)
    return run


def log(run: RunFolder, attempt: int, rank: int, text: str) -> None:
    """Append to a rank's log, behind a link as jobs.rank makes it."""
    logs = run.attempt(attempt).logs
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"0.{rank}.log").open("a") as file:
        file.write(text)
    link = logs / f"rank{rank}.log"
    if not link.is_symlink():
        link.symlink_to(f"0.{rank}.log")


def meanwhile(*steps: Callable[[], object]) -> threading.Thread:
    """Do things one after the other while the test follows."""

    def act() -> None:
        for step in steps:
            time.sleep(0.25)
            step()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def end(run: RunFolder, state: str = "done", attempt: int = 1) -> None:
    where = {"attempt": attempt, "job_id": str(os.getpid()), "executor": "local"}
    run.write_state(state, **where)


def test_metrics_and_the_end_are_shown(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.metrics_jsonl.write_text(
        '{"kind": "train", "step": 5, "attempt": 1, "loss": 0.123456, "lr": 1e-05}\n'
        "half a li\n"
        '{"kind": "eval", "step": 5, "name": "egomcq", "metrics": {"intra_video": 61.5}}\n'
        '{"kind": "train", "st'
    )
    run.write_state("failed", attempt=1, cause="crash", reason="rank 1: no memory")
    assert follow(run, POLL_SEC) == 1
    shown = capsys.readouterr()
    assert "train  step 5  loss 0.1235  lr 1e-05" in shown.out
    assert "egomcq  step 5  intra_video 61.5" in shown.out
    assert "[failed, attempt 1, cause crash, rank 1: no memory]" in shown.out
    assert str(run.attempt(1).logs) in shown.err
    end(run)
    assert follow(run, POLL_SEC) == 0


def test_the_logs_of_every_attempt_are_read_as_they_grow(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def second_attempt() -> None:
        run.claim_attempt(2, token_of(NAME), 1)
        log(run, 2, 0, "second begins\n")

    log(run, 1, 0, "first begins\nfirst is half way")
    thread = meanwhile(
        lambda: log(run, 1, 0, " and on\n"),
        second_attempt,
        lambda: log(run, 1, 0, "first says a last word\n"),
        lambda: log(run, 2, 0, "10 %\r20 %\rlast line without an end"),
        lambda: end(run, attempt=2),
    )
    assert follow(run, POLL_SEC) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    texts = [line for line in lines if not line.startswith("[")]
    assert texts == [
        "first begins",
        "first is half way and on",
        "second begins",
        "first says a last word",
        "last line without an end",
    ]


def test_all_ranks_are_told_apart(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1, 10):
        log(run, 1, rank, f"hello\nfrom {rank}\n")
    end(run)
    assert follow(run, POLL_SEC, all_ranks=True) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if "attempt" not in line]
    wanted = ["[0] hello", "[0] from 0", "[1] hello", "[1] from 1", "[10] hello", "[10] from 10"]
    assert lines == wanted


def test_of_a_long_log_only_the_end_is_shown(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log(run, 1, 0, "".join(f"line {number}\n" for number in range(10_000)))
    train_lines(run, range(1, 3000))
    end(run)
    assert follow(run, POLL_SEC) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "line 9999" in lines and "line 1" not in lines
    assert len(lines) < 600


def test_training_steps_wait_while_the_log_speaks(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log(run, 1, 0, "I am at step 1\n")
    train_lines(run, [1])
    thread = meanwhile(lambda: None, lambda: train_lines(run, [2]), lambda: end(run))
    assert follow(run, POLL_SEC) == 0
    thread.join()
    shown = capsys.readouterr().out
    assert "step 1/5000" not in shown  # overtaken by the last one
    assert "step 2/5000" in shown


def test_every_event_is_one_json_object(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    log(run, 1, 0, "hello\n")
    train_lines(run, [1])
    end(run, "stopped")
    assert follow(run, POLL_SEC, as_json=True) == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in events] == ["log", "metrics", "state", "end"]
    assert events[0] == {"event": "log", "attempt": 1, "rank": 0, "text": "hello"}
    assert events[-1]["exit_code"] == 1


def test_a_run_whose_process_is_gone_is_lost(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    facts = {"job_id": str(dead.pid), "executor": "local", "host": os.uname().nodename}
    write(run.job_json(token_of(NAME)), facts)
    assert follow(run, POLL_SEC) == 1
    shown = capsys.readouterr()
    assert "[running, attempt 1" in shown.out
    assert "lost: gone without an end mark, nothing saved" in shown.err
    assert "python -m jobs resume base-aa" in shown.err


def test_ctrl_c_leaves_the_run_alone_and_says_so(run: RunFolder) -> None:
    words = [sys.executable, "-m", "jobs", "follow", str(run.path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "[running" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "the run goes on; follow it again with" in process.stdout.read()
        assert process.wait(30) == 130
    assert run.read_state()["state"] == "running"


def test_a_log_that_is_not_there_yet_is_found_later(run: RunFolder) -> None:
    tail = LogTail(run, all_ranks=False)
    assert tail.lines(1, is_over=False) == []
    log(run, 1, 0, "x" * 10_000 + "\n")  # after the first look nothing is skipped
    assert [len(line.text) for line in tail.lines(1, is_over=False)] == [10_000]


def test_metrics_without_numbers_are_shown_as_they_are() -> None:
    assert describe_metrics({"kind": "note", "step": 1, "text": "x"}) == "note  step 1  text x"
