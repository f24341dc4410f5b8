"""The local Slurm itself: GPUs, preemption under both trackers, accounting, and a clean end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm import processes
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import KILL_WAIT_SEC, Settings, find_ports
from tests.slurm.conftest import bring_up_or_skip
from tests.slurm.errors import TestbedError, UnavailableError
from tests.slurm.testbed import LocalSlurm, bring_up
from tests.slurm.waiting import wait_for

pytestmark = pytest.mark.slurm

# For what does not depend on the tracker.
one_tracker = pytest.mark.parametrize("slurm_session", ["linuxproc"], indirect=True)

# Writes one line per TERM. The child is a session of its own: only a tracker that looks for
# descendants finds it.
LISTENER = """
import signal, subprocess, sys, time
name, folder = sys.argv[1:]
def note(*_):
    with open(f"{folder}/signals", "a") as file:
        file.write(name + "\\n")
signal.signal(signal.SIGTERM, note)
if name == "task":
    command = [sys.executable, __file__, "child", folder]
    child = subprocess.Popen(command, start_new_session=True)
open(f"{folder}/ready-{name}", "w").close()
while True:
    time.sleep(0.1)
"""


def _listening_job(slurm: SlurmClient, folder: Path, partition: str) -> int:
    program = folder / "listener.py"
    program.write_text(LISTENER)
    script = f"srun {sys.executable} {program} task {folder}"
    job = slurm.submit(script, f"--partition={partition}", "--nodes=1")
    wait_for((folder / "ready-child").exists, 90.0, "the step and its child to listen")
    return job


def test_all_nodes_are_idle_after_the_start(slurm: SlurmClient) -> None:
    assert slurm.local.node_states() == dict.fromkeys(["node1", "node2", "node3", "node4"], "idle")


def test_gpus_are_scheduled_and_named_in_batch_and_steps(slurm: SlurmClient) -> None:
    show = 'echo "$SLURMD_NODENAME sees $CUDA_VISIBLE_DEVICES of $SLURM_GPUS_ON_NODE"'
    job = slurm.submit(f"{show}\nsrun sh -c '{show}'", "--nodes=2", "--gpus-per-node=2")
    slurm.wait_state(job, "COMPLETED")
    lines = slurm.settings.path("log", f"job-{job}.out").read_text().splitlines()
    assert sorted(lines) == [
        "node1 sees 0,1 of 2",
        "node1 sees 0,1 of 2",
        "node2 sees 0,1 of 2",
    ]


@one_tracker
def test_more_gpus_than_a_node_has_are_refused(slurm: SlurmClient) -> None:
    with pytest.raises(AssertionError, match="node configuration is not available"):
        slurm.submit("true", "--gpus-per-node=3")


def test_preemption_sends_term_to_the_step_and_tells_the_deadline(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    job = _listening_job(slurm, tmp_path, "a100")
    assert "PreemptTime" not in slurm.job(job) or slurm.job(job)["PreemptTime"] == "None"
    slurm.start_intruder()
    signals = tmp_path / "signals"
    wait_for(signals.exists, 90.0, "TERM in the step")
    facts = slurm.job(job)
    assert facts["JobState"] == "RUNNING"
    assert facts["PreemptTime"] <= facts["EndTime"]
    wait_for(lambda: slurm.state(job) != "RUNNING", 60.0, "the end of the grace time")
    receivers = set(signals.read_text().split())
    # Descendants get the signal under linuxproc; under cgroup, as on real clusters, the task alone.
    assert "task" in receivers
    assert ("child" in receivers) == (slurm.settings.tracker == "linuxproc")


def test_a_job_killed_without_grace_is_requeued_and_told_so(
    slurm: SlurmClient, preempt: Callable[[int], None], tmp_path: Path
) -> None:
    job = _listening_job(slurm, tmp_path, "nograce")
    preempt(job)
    slurm.wait_state(job, "RUNNING")
    assert slurm.restarts(job) == 1
    (node,) = [slurm.job(job)["NodeList"]]
    wait_for(lambda: slurm.processes_on(node), 90.0, "the job's processes")
    environs = [
        Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in slurm.processes_on(node)
    ]
    assert any(b"SLURM_RESTART_COUNT=1" in variables for variables in environs)


@one_tracker
def test_a_job_may_requeue_itself_and_starts_within_seconds(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    script = (
        f'date +%s >> {starts}\n[ -n "$SLURM_RESTART_COUNT" ] || scontrol requeue $SLURM_JOB_ID\n'
    )
    job = slurm.submit(f"{script}sleep 0.2")
    slurm.wait_state(job, "COMPLETED", seconds=60.0)
    first, second = (int(line) for line in starts.read_text().split())
    # 121 s with Slurm's default credential lifetime.
    assert second - first <= KILL_WAIT_SEC + 20


@one_tracker
def test_a_dead_slurmd_is_noticed_and_its_node_comes_back(slurm: SlurmClient) -> None:
    slurm.kill_node("node4")
    wait_for(lambda: slurm.local.node_states()["node4"] == "down*", 60.0, "node4 to be down")
    slurm.revive_nodes()
    slurm.local.wait_idle(40.0)


def _leftovers(folder: Path) -> list[str]:
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    alive = processes.marked_processes(folder) | processes.job_processes(folder)
    return mounts + [str(pid) for pid in alive] + ([str(folder)] if folder.exists() else [])


def _groups(job: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup/freezer").glob(f"slurm_*/uid_*/job_{job}"))


def _system_files() -> set[str]:
    """Files that Slurm and what it needs would leave in the system's folders."""
    roots = ("/run", "/var/lib/slurm", "/var/log", "/var/spool", "/dev/shm")
    names = re.compile("slurm|munge|mysql|maria")
    paths = (str(path) for root in roots for path in Path(root).rglob("*"))
    return {path for path in paths if names.search(path)}


@pytest.mark.parametrize(
    ("tracker", "accounting"), [("linuxproc", True), ("cgroup", False), ("cgroup", True)]
)
def test_down_leaves_nothing_behind_even_with_orphans(
    testbed_folder: Path, tracker: str, accounting: bool
) -> None:
    before = _system_files()
    folder = testbed_folder / "short"
    client = SlurmClient(bring_up_or_skip(Settings(folder, tracker, accounting, num_nodes=2)))
    job = client.submit("srun sh -c 'setsid sleep 500 & sleep 500'", "--nodes=2")
    client.wait_state(job, "RUNNING")
    wait_for(lambda: len(client.processes_on("node2")) >= 2, 90.0, "the step on node2")
    orphans = client.processes_on("node2")
    client.kill_node("node2")
    assert client.processes_on("node2") == orphans
    client.local.down()
    assert _leftovers(folder) == []
    assert _groups(job) == []
    assert _system_files() - before == set()


def test_accounting_answers_sacct(testbed_folder: Path) -> None:
    folder = testbed_folder / "accounting"
    client = SlurmClient(bring_up_or_skip(Settings(folder, accounting=True)))
    try:
        job = client.submit("srun true", "--nodes=2", "--job-name=counted")
        client.wait_state(job, "COMPLETED")
        query = ("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=JobName,State,NNodes")
        expected = "counted|COMPLETED|2\n"
        wait_for(lambda: client.run(*query) == expected, 90.0, "sacct to tell the job's end")
    finally:
        client.local.down()


@one_tracker
def test_without_accounting_sacct_fails(slurm: SlurmClient) -> None:
    with pytest.raises(AssertionError, match="accounting storage is disabled"):
        slurm.run("sacct")


@one_tracker
def test_up_twice_is_once_and_other_settings_are_refused(slurm: SlurmClient) -> None:
    pids = {name: slurm.local.daemon(name).pid for name in slurm.local.daemon_names}
    again, was_up = bring_up(Settings(slurm.settings.folder, slurm.settings.tracker))
    assert was_up
    assert {name: again.daemon(name).pid for name in again.daemon_names} == pids
    with pytest.raises(TestbedError, match="down first"):
        bring_up(Settings(slurm.settings.folder, slurm.settings.tracker, accounting=True))


@one_tracker
def test_a_testbed_whose_daemons_died_is_replaced(slurm: SlurmClient, testbed_folder: Path) -> None:
    # `slurm` asks for a running neighbour: both live side by side.
    settings = Settings(testbed_folder / "stale", slurm.settings.tracker, num_nodes=1)
    first = bring_up_or_skip(settings)
    processes.kill(processes.marked_processes(settings.folder))
    second, was_up = bring_up(settings)
    try:
        assert not was_up
        assert second.settings.first_job != first.settings.first_job
        assert SlurmClient(second).run("srun", "hostname")
        assert slurm.run("srun", "hostname")
    finally:
        second.down()


@one_tracker
def test_a_folder_with_other_content_is_left_alone(slurm: SlurmClient, tmp_path: Path) -> None:
    folder = Path("/tmp") / f"egovl-foreign-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "thesis.tex").write_text("years of work")
        with pytest.raises(TestbedError, match="not empty and no testbed"):
            bring_up(Settings(folder))
        assert (folder / "thesis.tex").read_text() == "years of work"
        assert LocalSlurm.load(folder) is None
    finally:
        (folder / "thesis.tex").unlink()
        folder.rmdir()


@one_tracker
def test_ports_do_not_collide_with_listeners(slurm: SlurmClient) -> None:
    taken = range(slurm.settings.first_port, slurm.settings.first_port + slurm.settings.num_ports)
    for _ in range(20):
        first = find_ports(6)
        assert first + 6 < 32768
        assert not set(range(first, first + 6)) & (set(taken) - {slurm.settings.slurmdbd_port})


@one_tracker
def test_a_user_without_root_is_told_so(slurm: SlurmClient) -> None:
    folder = Path("/tmp/egovl-nobody")
    os.seteuid(65534)
    try:
        with pytest.raises(UnavailableError, match="needs root"):
            bring_up(Settings(folder))
    finally:
        os.seteuid(0)
    assert not folder.exists()


def test_a_folder_too_long_for_unix_sockets_is_refused() -> None:
    with pytest.raises(ValueError, match="choose a shorter one"):
        Settings(Path("/") / ("long" * 16))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_test_session_takes_its_testbed_down(
    tmp_path: Path, number: signal.Signals
) -> None:
    root = Path(__file__).parents[2]
    name = "test_all_nodes_are_idle_after_the_start"
    code = (
        "import os, time, tests.slurm.client as client\n"
        "def sleepy(self):\n"
        f"    open({str(tmp_path / 'up')!r}, 'w').write(str(self.local.settings.folder))\n"
        "    time.sleep(100)\n"
        "client.SlurmClient.cancel_all = sleepy\n"
        "import pytest, sys\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/slurm', '-k', {name!r}]))\n"
    )
    session = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True
    )
    mark = tmp_path / "up"
    wait_for(lambda: mark.exists() and mark.read_text() != "", 60.0, "its testbed")
    folder = Path(mark.read_text())
    assert LocalSlurm.load(folder) is not None
    session.send_signal(number)
    session.communicate(timeout=60)
    assert session.returncode != 0
    assert _leftovers(folder.parent) == []
