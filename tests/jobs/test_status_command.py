"""`python -m jobs status`: one run with all its attempts."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from jobs.node import process_start
from jobs.run_folder import RunFolder
from tests.jobs.commands import ROOT, jobs, jobs_json
from tests.jobs.launched_runs import commit, conclude, make_launched, token_of, train_lines, write

NO_SLURM = {"PATH": "/nonexistent"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    facts = {"budgets": {"timeout": 98, "crash": 2}, "excluded": ["node7"]}
    name = "pretrain/base-aa"
    run = make_launched(
        tmp_path, name, "stopped", "12", attempts=3, cause="user", reason="at step 900", **facts
    )
    spec = {"nodes": 4, "processes_per_node": 8, "time_limit_sec": 172800, "partition": "a100"}
    write(run.spec_json(token_of(name)), {"resources": spec})
    train_lines(run, range(1, 401), attempt=1, at=1000)
    train_lines(run, range(401, 801), attempt=2, at=1407.5)
    train_lines(run, range(751, 901), attempt=3, at=2000)
    with run.metrics_jsonl.open("a") as file:
        file.write('{"kind": "eval", "step": 900, "name": "egomcq", "metrics": {"intra": 61.5}, ')
        file.write('"attempt": 3, "time": 2150}\n')
    nodes = ["node1", "node2"]
    conclude(run, 1, "preempt", nodes=nodes, started=990.0, ended=1400.0, job_id="12")
    conclude(run, 2, "node_fail", nodes=nodes, blamed=["node2"], started=1400.0, job_id="12")
    conclude(run, 3, "user", nodes=nodes, started=1990.0, state="stopped", job_id="12")
    run.attempt(3).logs.mkdir(parents=True)
    run.attempt(3).main_log.write_text("rank 0\n")
    commit(run, 900)
    return run


def test_everything_about_a_run_is_on_one_screen(run: RunFolder) -> None:
    done = jobs("status", str(run.path), env=NO_SLURM)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "pretrain/base-aa: stopped for 1m, job 12"
    for words in (
        "user: at step 900",
        "loss 0.001111, clips_per_sec 850",
        "intra 61.5 (step 900)",
        "900 of 5000 (18 %)",
        "saved      step 900, ",
        "4 x 8 processes, partition a100, limit 2d",
        "timeout 98x, crash 2x",
        "node7",
        str(run.attempt(3).main_log),
        str(run.path),
    ):
        assert words in done.stdout, words
    tries = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [line[0] for line in tries] == ["1", "2", "3"]
    assert "1-400" in tries[0] and "preempt" in tries[0] and "node1,node2" in tries[0]
    assert "401-800" in tries[1] and "8s" in tries[1] and "(node2)" in tries[1]
    assert "751-900" in tries[2] and "50" in tries[2]  # steps lost by the node's failure
    assert len(lines) <= 24


def test_json_has_the_row_and_the_attempts(run: RunFolder) -> None:
    shown = jobs_json("status", str(run.path), env=NO_SLURM)
    assert (shown["schema"], shown["state"], shown["saved_step"]) == (1, "stopped", 900)
    assert [each["lost_steps"] for each in shown["attempts"]] == [0, 0, 50]
    assert [each["cause"] for each in shown["attempts"]] == ["preempt", "node_fail", "user"]
    assert shown["attempts"][1]["back_sec"] == 8.5
    assert shown["budgets"] == {"timeout": 98, "crash": 2}


def test_without_a_run_all_are_shown(run: RunFolder) -> None:
    runs = str(run.path.parent.parent)
    assert jobs("status", "--runs", runs).stdout == jobs("list", "--runs", runs).stdout


def test_a_view_for_people_gives_no_json(run: RunFolder) -> None:
    done = jobs("status", str(run.path), "--watch", "--json")
    assert done.returncode == 2
    assert "leave out --json" in done.stderr


def test_a_view_of_what_is_over_ends_by_itself(run: RunFolder) -> None:
    for words in ((str(run.path),), ("--runs", str(run.path.parent.parent))):
        done = jobs("status", *words, "--watch", env=NO_SLURM)
        assert done.returncode == 0
        assert "stopped" in done.stdout
        assert "\x1b" not in done.stdout


def start_in_terminal(words: list[str], term: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 80, 0, 0))
    env = {**os.environ, **NO_SLURM, "TERM": term}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", *words], cwd=ROOT, env=env, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    return process, ours


def read_until(handle: int, words: bytes, seconds: float = 60) -> bytes:
    text, end = b"", time.monotonic() + seconds
    while words not in text:
        assert time.monotonic() < end, text
        try:
            text += os.read(handle, 65536)
        except OSError:  # the other side is closed
            break
    assert words in text, text
    return text


def make_live(run: RunFolder) -> None:
    here = str(os.getpid())
    facts = {"job_id": here, "executor": "local", "updated": time.time()}
    write(run.state_json, {"state": "running", "attempt": 3, **facts})
    job = {**facts, "host": os.uname().nodename, "process_start": process_start(os.getpid())}
    write(run.job_json(token_of("pretrain/base-aa")), job)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_view_is_refreshed_in_place_until_ctrl_c(run: RunFolder, term: str) -> None:
    make_live(run)
    words = ["status", "--watch", "--runs", str(run.path.parent.parent)]
    process, screen = start_in_terminal(words, term)
    text = read_until(screen, b"running")
    train_lines(run, [950], attempt=3, at=3000)
    if term == "xterm":
        text += read_until(screen, b"950/5000")
        assert b"\x1b[?25l" in text and b"\x1b[H" in text
    process.send_signal(signal.SIGINT)
    text = read_until(screen, b"the runs go on")
    assert process.wait(20) == 0
    assert (b"\x1b[?25h" in text) == (term == "xterm")
    assert b"Traceback" not in text


def test_a_view_ends_when_nothing_is_live_any_more(run: RunFolder) -> None:
    make_live(run)
    process, screen = start_in_terminal(["status", str(run.path), "--watch"], "xterm")
    read_until(screen, b"running")
    run.write_state("done", attempt=3, job_id="12", executor="local")
    read_until(screen, b"done")
    assert process.wait(20) == 0
