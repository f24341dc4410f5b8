"""Fixtures of the tests on a real local Slurm: one per process tracker, gone at the end.

Where Slurm cannot run (no packages and no root), they skip and say why; with CI=true they fail.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm import processes
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import PROFILES, TRACKERS, Settings
from tests.slurm.errors import TrackerUnavailableError, UnavailableError
from tests.slurm.testbed import LocalSlurm, bring_up

FOLDER_NAME = re.compile(r"egovl-slurm-(\d+)-")


def bring_up_or_skip(settings: Settings) -> LocalSlurm:
    """A testbed, or the test's skip with the reason (in CI: its failure)."""
    try:
        return bring_up(settings)[0]
    except TrackerUnavailableError as error:
        pytest.skip(f"NO REAL SLURM WITH {settings.tracker}: {error}")
    except UnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to run the tests on a real Slurm: {error}")
        pytest.skip(f"NO REAL SLURM: {error}")


def _remove(folder: Path) -> None:
    for testbed in folder.glob("*"):
        local = LocalSlurm.load(testbed)
        if local is not None:
            local.down()
    shutil.rmtree(folder, ignore_errors=True)


def _end_session(*_: object) -> None:
    pytest.exit("SIGTERM", returncode=143)


@pytest.fixture(scope="session")
def testbed_folder() -> Iterator[Path]:
    """Short folder for this session's testbeds; those of sessions that were killed go first."""
    root = Path(tempfile.gettempdir())
    for folder in root.glob("egovl-slurm-*"):
        match = FOLDER_NAME.match(folder.name)
        if match and not processes.is_alive(int(match.group(1))):
            _remove(folder)
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-", dir=root))
    atexit.register(_remove, folder)
    # A killed session (a CI's time limit, `timeout`) takes its testbeds down as well.
    before = signal.signal(signal.SIGTERM, _end_session)
    yield folder
    signal.signal(signal.SIGTERM, before)
    _remove(folder)
    atexit.unregister(_remove)


@pytest.fixture(scope="session", params=TRACKERS)
def slurm_session(request: pytest.FixtureRequest, testbed_folder: Path) -> Iterator[SlurmClient]:
    """A four-node Slurm with one process tracker; `parametrize(..., indirect=True)` picks one.

    Any name of `PROFILES` will do: a tracker alone, or with its way of preempting.
    """
    folder = testbed_folder / str(list(PROFILES).index(request.param))
    local = bring_up_or_skip(Settings(folder, **PROFILES[request.param]))
    yield SlurmClient(local)
    local.down()


@pytest.fixture
def slurm(slurm_session: SlurmClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmClient]:
    """The session's Slurm, idle before and after, and the one this process's commands speak to."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(slurm_session.settings.slurm_conf))
    yield slurm_session
    slurm_session.revive_nodes()
    slurm_session.cancel_all()
    slurm_session.local.wait_idle(40.0)


@pytest.fixture
def preempt(slurm: SlurmClient) -> Callable[[int], None]:
    """Preempt a running job once; return when the nodes are free again."""
    return slurm.preempt


# What `make test` leaves to `make soak`, so that it ends in time: the same stories under the
# other tracker, on the other node, or with long waits of Slurm's own.
SOAK = (
    r"test_hard_loss\.py::test_killed_agent\[(linuxproc-\d|cgroup-0)\]",
    r"test_hard_loss\.py::test_killed_slurmd\[(linuxproc-\d|cgroup-0)\]",
    r"test_hard_loss\.py::test_killed_rank\[0-cgroup\]",
    r"test_preemption\.py::test_preempted_without_grace",
    r"test_preemption\.py::test_preempted_twice_at_random_steps",
    r"test_preemption\.py::test_ranks_that_ignore_the_stop",
    r"test_cancel\.py::test_scancel_saves_and_ends_the_run_for_good\[linuxproc\]",
    r"test_cancel\.py::test_scancel_of_a_pending_job",
    r"test_early_signal\.py::.*\[cgroup\]",
    r"test_time_limit\.py",
    r"test_testbed\.py::test_a_job_killed_without_grace_is_requeued_and_told_so",
    r"test_testbed\.py::test_a_job_may_requeue_itself",
    r"test_testbed\.py::test_a_dead_slurmd_is_noticed",
    r"test_testbed\.py::test_down_leaves_nothing_behind_even_with_orphans\[cgroup-False\]",
    r"test_testbed\.py::test_a_terminated_test_session.*\[2\]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long repetitions."""
    for item in items:
        if any(re.search(pattern, item.nodeid) for pattern in SOAK):
            item.add_marker(pytest.mark.soak)
