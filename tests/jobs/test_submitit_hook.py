"""Which name submitit calls on a stop signal: documentation and package disagree (1.5.4).

The agent replaces submitit's handlers at its start; the hook is for a signal that comes before.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import FailedJobError
from submitit.helpers import DelayedSubmission

from jobs.agent import NodeAgent
from jobs.run_folder import RunFolder, read_json, write_json_atomic


class Sleeper:
    """Says how it was started, then sleeps; a resumed one returns at once."""

    def __init__(self, folder: str, resumed: bool = False) -> None:
        self.folder = folder
        self.resumed = resumed

    def __call__(self) -> str:
        starts = Path(self.folder) / "starts"
        with starts.open("a") as file:
            file.write(f"{os.getpid()} {'resumed' if self.resumed else 'fresh'}\n")
        if self.resumed or len(starts.read_text().splitlines()) > 1:
            return "resumed" if self.resumed else "fresh again"
        time.sleep(60)
        return "slept"


def _resume(self: Sleeper) -> DelayedSubmission:
    return DelayedSubmission(type(self)(self.folder, resumed=True))


class WithCheckpoint(Sleeper):
    checkpoint = _resume


class WithDocumentedName(Sleeper):
    __submitit_checkpoint__ = _resume


class WithBoth(Sleeper):
    checkpoint = _resume
    __submitit_checkpoint__ = _resume


@pytest.mark.slow
@pytest.mark.parametrize("signal_means", ["preemption", "timeout"])
@pytest.mark.parametrize("kind", [WithCheckpoint, WithDocumentedName, WithBoth])
def test_hook_is_found_only_under_the_name_that_the_package_reads(
    tmp_path: Path, kind: type[Sleeper], signal_means: str
) -> None:
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    # submitit takes a signal for a timeout once min(0.8 limit, limit - 10 min) has passed
    executor.update_parameters(timeout_min=60 if signal_means == "preemption" else 5)
    job = executor.submit(kind(str(tmp_path)))
    starts = tmp_path / "starts"
    end = time.monotonic() + 60
    while not (starts.exists() and starts.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(int(starts.read_text().split()[0]), signal.SIGUSR2)
    if kind is not WithDocumentedName:
        assert job.result() == "resumed"
    elif signal_means == "preemption":
        assert job.result() == "fresh again"
    else:
        with pytest.raises(FailedJobError, match="not checkpointable"):
            job.result()


def test_agent_defines_both_names_as_one_function() -> None:
    assert NodeAgent.checkpoint is NodeAgent.__submitit_checkpoint__


def test_hook_takes_the_claim_that_a_requeue_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    run = RunFolder(tmp_path)
    write_json_atomic(run.run_json, {"home": "/"})
    run.claim_attempt(1, "t", 0)
    delayed = NodeAgent(str(tmp_path), "/code", "t").checkpoint()
    assert vars(delayed.function) == {"run_dir": str(tmp_path), "snapshot": "/code", "token": "t"}
    assert (read_json(run.attempt(2).claim_json) or {})["by"] == "submitit"
    assert run.find_claim("t", 1) == 2
    NodeAgent(str(tmp_path), "/code", "t").checkpoint()  # a second signal changes nothing
    assert run.latest_attempt() == 2
