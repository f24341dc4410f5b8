"""The command line of `python -m jobs`: what it teaches, what it refuses."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS, help_text
from tests.jobs.commands import ROOT, jobs

NO_SLURM = {"PATH": "/nonexistent"}


def test_help_names_every_command_with_what_it_does_and_an_example() -> None:
    shown = jobs("--help").stdout
    assert shown == help_text()
    for name, example in COMMANDS.items():
        assert importlib.import_module(f"jobs.{name}_command").HELP in shown
        assert example in shown
        assert example.startswith(f"python -m jobs {name}")
    assert all(len(line) <= 100 for line in shown.splitlines())
    assert "exit code: 0" in shown


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_every_command_shows_its_flags_and_example(name: str) -> None:
    done = jobs(name, "--help")
    assert done.returncode == 0
    assert COMMANDS[name] in done.stdout
    assert "--json" in done.stdout
    assert "exit code: 0" in done.stdout


def test_help_imports_only_what_argparse_needs() -> None:
    code = (
        "import sys, argparse, importlib, runpy; before = set(sys.modules)\n"
        "sys.argv = ['jobs', {}]\n"
        "try: runpy.run_module('jobs', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    for words in ("'--help'", *(f"'{name}', '--help'" for name in COMMANDS)):
        argv = [sys.executable, "-c", code.format(words)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        names = done.stderr.strip().strip("[]").replace("'", "").split(", ")
        ours = [n for n in names if n.startswith("jobs")]
        assert all(n == "jobs" or n == "jobs.arguments" or "_command" in n for n in ours), ours
        for heavy in ("json", "dataclasses", "subprocess", "yaml", "shutil", "pathlib"):
            assert heavy not in names


def test_no_command_shows_the_help_and_is_refused() -> None:
    done = jobs()
    assert done.returncode == 2
    assert "usage: python -m jobs" in done.stdout


@pytest.mark.parametrize(("typed", "meant"), [("lst", "list"), ("folow", "follow"), ("kill", "")])
def test_unknown_command_is_refused_with_the_closest(typed: str, meant: str) -> None:
    done = jobs(typed)
    assert done.returncode == 2
    assert f"unknown command: {typed!r}" in done.stderr
    assert not meant or f"did you mean {meant!r}" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_run_is_refused(tmp_path: Path) -> None:
    for name in ("status", "follow", "stop", "cancel", "resume", "preempt"):
        done = jobs(name, "nothing", "--runs", str(tmp_path), env=NO_SLURM)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: no runs in" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m jobs list --runs {tmp_path} | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
