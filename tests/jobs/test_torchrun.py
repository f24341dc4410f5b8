from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.node import descendants, is_alive
from jobs.torchrun import Echo, TorchrunChild, knows_flag


def wait_text(path: Path, text: str) -> None:
    end = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, f"{path} never said {text!r}"
        time.sleep(0.02)


def start(folder: Path, code: str) -> TorchrunChild:
    return TorchrunChild([sys.executable, "-c", code], {"WORD": "hello"}, folder, folder / "log")


def test_child_ignores_user_signals_and_is_ended_by_term(tmp_path: Path) -> None:
    child = start(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
    wait_text(tmp_path / "log", "up")
    os.kill(child.pid, signal.SIGUSR2)
    os.kill(child.pid, signal.SIGUSR1)
    time.sleep(0.1)
    assert child.poll() is None
    child.terminate()
    child.kill()
    assert child.poll() == -signal.SIGTERM


def test_child_has_its_own_session_environment_and_folder(tmp_path: Path) -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), os.environ['WORD'], os.getcwd())"
    child = start(tmp_path, code)
    wait_text(tmp_path / "log", f"True hello {tmp_path}")
    child.kill()


def test_kill_takes_grandchildren_along(tmp_path: Path) -> None:
    code = (
        "import subprocess, time\n"
        "p = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print('child', p.pid, '.', flush=True); time.sleep(60)"
    )
    child = start(tmp_path, code)
    wait_text(tmp_path / "log", " .")
    grandchild = int((tmp_path / "log").read_text().split()[1])
    assert descendants(child.pid) == [grandchild]
    child.kill()
    end = time.monotonic() + 5
    while is_alive(grandchild, None) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(grandchild, None)


def test_child_of_a_killed_agent_is_told_to_end(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from jobs.torchrun import TorchrunChild\n"
        f"c = TorchrunChild(['sleep', '60'], {{}}, Path('/'), Path({str(tmp_path / 'log')!r}))\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(f'{{c.pid}} .'); time.sleep(60)"
    )
    home = Path(__file__).resolve().parents[2]
    agent = subprocess.Popen([sys.executable, "-c", code], cwd=home)
    wait_text(tmp_path / "pid", " .")
    child = int((tmp_path / "pid").read_text().split()[0])
    assert is_alive(child, None)
    agent.kill()
    agent.wait()
    end = time.monotonic() + 5
    while is_alive(child, None) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(child, None)


def test_flags_of_the_installed_torchrun_are_found_without_importing_torch() -> None:
    assert knows_flag("--rdzv-conf")
    assert not knows_flag("--no-such-flag")


def test_echo_copies_rank_0_only_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "rank0.log"
    here, elsewhere = Echo(link, "1."), Echo(link, "0.")
    here.copy()
    (tmp_path / "1.0.log").write_text("one\n")
    link.symlink_to("1.0.log")
    here.copy()
    elsewhere.copy()
    with (tmp_path / "1.0.log").open("a") as file:
        file.write("two\n")
    here.close()
    elsewhere.close()
    assert capsys.readouterr().out == "one\ntwo\n"
