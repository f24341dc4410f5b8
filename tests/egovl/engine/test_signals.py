from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from egovl.engine.signals import STOP_FILE_VARIABLE, StopRequest
from tests.architecture.source import ROOT


@pytest.fixture(autouse=True)
def restore_handlers() -> object:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_stop_file_is_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "stop.json"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(file))
    stop = StopRequest()
    assert not stop.requested()
    file.write_text("{}")
    assert stop.requested()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_is_a_request_and_twice_is_once(number: int) -> None:
    stop = StopRequest().install()
    signal.raise_signal(number)
    assert stop.requested()
    if number != signal.SIGINT:
        signal.raise_signal(number)
    assert stop.requested()


def test_a_second_interrupt_ends_the_program() -> None:
    StopRequest().install()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    stop = StopRequest().install()
    signal.raise_signal(signal.SIGUSR2)
    assert not stop.requested()


def test_the_handlers_stand_before_torch_is_imported() -> None:
    code = "import sys, egovl.engine.signals; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
