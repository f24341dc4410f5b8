"""A real Slurm on this machine: four nodes with fake GPUs, in one private folder, without systemd.

    python -m tests.slurm.testbed up --folder build/slurm [--tracker cgroup] [--accounting]
    eval "$(python -m tests.slurm.testbed env --folder build/slurm)"; sinfo
    python -m tests.slurm.testbed down --folder build/slurm

Partitions: a100 (default; preempted with a grace time), nograce (preempted without), urgent
(preempts both). Root is needed: for Debian's packages, device files and the freezer's mount.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.slurm import configuration, freezer, processes
from tests.slurm.configuration import (
    GPUS_PER_NODE,
    PREEMPT_MODES,
    TRACKERS,
    Settings,
    find_ports,
)
from tests.slurm.errors import TestbedError, UnavailableError
from tests.slurm.packages import ensure_packages, find_program
from tests.slurm.processes import Daemon

logger = logging.getLogger(__name__)

STATE_FILE = "testbed.json"
NVIDIA_MAJOR = 195
TITLE = "A real Slurm of a few nodes with fake GPUs on this machine, in one folder."
# Small, and never waiting for the disk: its content need not outlive a crash.
THROW_AWAY_DATABASE = (
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--sync-frm=0",
)


class LocalSlurm:
    """The Slurm of one folder: `up`, `down`, and its daemons one by one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def load(folder: Path) -> LocalSlurm | None:
        """The testbed that lives in `folder`, up or left behind; None where there is none."""
        state = folder / STATE_FILE
        return LocalSlurm(Settings.from_json(state.read_text())) if state.exists() else None

    @property
    def environment(self) -> dict[str, str]:
        """What a Slurm command needs to speak to this testbed."""
        return {"SLURM_CONF": str(self.settings.slurm_conf)}

    def daemon(self, name: str) -> Daemon:
        """A daemon by name: munged, mariadbd, slurmdbd, slurmctld, node1, ..."""
        return Daemon(name, self.settings.folder)

    @property
    def daemon_names(self) -> list[str]:
        """Every daemon of this profile, in the order of their start."""
        database = ["mariadbd", "slurmdbd"] if self.settings.accounting else []
        return ["munged", *database, "slurmctld", *self.settings.node_names]

    def is_up(self) -> bool:
        """Whether every daemon lives."""
        return all(self.daemon(name).pid is not None for name in self.daemon_names)

    def up(self) -> None:
        """Bring it up in an empty or absent folder, or leave nothing behind.

        Raises:
            TestbedError: it did not come up; the daemon's log is in the message.
        """
        try:
            self._prepare_folder()
            self._start_munge()
            if self.settings.accounting:
                self._start_accounting()
            self._start_controller()
            for name in self.settings.node_names:
                self.start_node(name)
            self.wait_idle(60.0)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Kill our daemons and what their jobs left, remove mounts, devices and the folder.

        Nobody reads their state again, so none is asked to end in order.

        Raises:
            TestbedError: something could not be removed.
        """
        folder = self.settings.folder
        if freezer.is_mounted(self.settings):
            freezer.kill_groups(self.settings)
        self._kill_all()
        freezer.unmount_freezer(self.settings)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        below = [path for path in mounted if path.startswith(f"{folder}/")]
        if below:
            raise TestbedError(f"{', '.join(below)} still mounted; not removing {folder}")
        if folder.exists():
            shutil.rmtree(folder)

    def _kill_all(self) -> None:
        folder = self.settings.folder
        # A process may fork while it is being listed.
        for _ in range(10):
            pids = processes.marked_processes(folder) | processes.job_processes(folder)
            if not pids:
                return
            processes.kill(pids)
        raise TestbedError(f"processes of {folder} keep coming back: {sorted(pids)}")

    def _prepare_folder(self) -> None:
        s = self.settings
        s.folder.mkdir(parents=True, exist_ok=True)
        # First of all: with it, `down` can clean up after a bring-up that was killed.
        s.path(STATE_FILE).write_text(s.to_json())
        for name in ("etc", "log", "run", "state", "spool", "munge", "dev"):
            s.path(name).mkdir()
        s.slurm_conf.write_text(configuration.slurm_conf_text(s))
        s.path("etc", "gres.conf").write_text(configuration.gres_conf_text(s))
        for number in range(GPUS_PER_NODE):
            device = os.makedev(NVIDIA_MAJOR, number)
            os.mknod(s.path("dev", f"nvidia{number}"), stat.S_IFCHR | 0o600, device)
        if s.tracker == "cgroup":
            s.path("etc", "cgroup.conf").write_text(configuration.cgroup_conf_text(s))
            freezer.mount_freezer(s)

    def _start_munge(self) -> None:
        munge = self.settings.path("munge")
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        command = [_program("munged"), "--foreground", "--force", f"--socket={munge / 'socket'}"]
        command += [f"--key-file={key}", f"--pid-file={munge / 'pid'}"]
        command += [f"--log-file={munge / 'log'}", f"--seed-file={munge / 'seed'}"]
        daemon = self.daemon("munged")
        daemon.start(command)
        daemon.wait_ready(self.settings.munge_socket.exists, 20.0)

    def _start_accounting(self) -> None:
        s = self.settings
        data = s.path("database")
        install = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}"]
        install += ["--user=root", "--skip-test-db", "--auth-root-authentication-method=normal"]
        done = subprocess.run(
            [*install, *THROW_AWAY_DATABASE], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise TestbedError(f"{' '.join(install)}:\n{(done.stdout + done.stderr)[-1500:]}")
        database = self.daemon("mariadbd")
        command = [_program("mariadbd"), "--no-defaults", f"--datadir={data}", "--user=root"]
        command += [f"--socket={s.database_socket}", "--skip-networking", *THROW_AWAY_DATABASE]
        command += [f"--pid-file={s.path('run')}/mariadbd.pid"]
        database.start(command)
        database.wait_ready(s.database_socket.exists, 30.0)
        conf = s.path("etc", "slurmdbd.conf")
        conf.write_text(configuration.slurmdbd_conf_text(s))
        conf.chmod(0o600)
        daemon = self.daemon("slurmdbd")
        unix_socket = {"MYSQL_UNIX_PORT": str(s.database_socket)}
        daemon.start([_program("slurmdbd"), "-D"], self.environment | unix_socket)
        daemon.wait_ready(lambda: _listens(s.slurmdbd_port), 30.0)

    def _start_controller(self) -> None:
        daemon = self.daemon("slurmctld")
        daemon.start([_program("slurmctld"), "-D"], self.environment)
        daemon.wait_ready(lambda: _listens(self.settings.first_port), 30.0)

    def start_node(self, name: str) -> None:
        """Start the slurmd of one node; also after its end, when a test has killed it."""
        self.daemon(name).start([_program("slurmd"), "-D", "-N", name], self.environment)

    def wait_idle(self, seconds: float) -> None:
        """Wait until all nodes are idle.

        Raises:
            TestbedError: they are not in time; node states and the controller's log are in it.
        """
        end = time.monotonic() + seconds
        while (states := self.node_states()) != dict.fromkeys(self.settings.node_names, "idle"):
            if time.monotonic() > end:
                log = self.daemon("slurmctld").tail()
                raise TestbedError(f"nodes are {states} after {seconds} s:\n{log}")
            time.sleep(0.1)

    def node_states(self) -> dict[str, str]:
        """State by node, as sinfo's compact word (`idle`, `alloc`, `down*`, ...)."""
        command = [_program("sinfo"), "--noheader", "--Node", "--partition=a100", "--format=%N %t"]
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        return dict(line.split() for line in done.stdout.splitlines())


def _program(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise TestbedError(f"{name} is not installed")
    return path


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def bring_up(settings: Settings) -> tuple[LocalSlurm, bool]:
    """The testbed of these settings, and whether it had been up already.

    Ports and the first job id are chosen here. What a dead testbed left in the folder goes.

    Raises:
        TestbedError: it cannot be had; the message says what to do.
    """
    folder = settings.folder
    there = LocalSlurm.load(folder)
    if there is not None and there.is_up():
        wanted = replace(
            settings, first_port=there.settings.first_port, first_job=there.settings.first_job
        )
        if wanted != there.settings:
            raise TestbedError(f"{folder} is up with other settings: {there.settings}; down first")
        return there, True
    ensure_packages(settings.accounting)
    if os.geteuid() != 0:
        raise UnavailableError("the local Slurm needs root (device files, slurmd); run as root")
    if there is not None:
        there.down()
    if folder.exists() and any(folder.iterdir()):
        raise TestbedError(f"{folder} is not empty and no testbed: choose another folder")
    # Testbeds side by side share the freezer's names; job ids tell them apart (and seed ports).
    first_job = 10_000 * random.SystemRandom().randrange(1, 3000) + 1
    chosen = replace(settings, first_port=find_ports(settings.num_ports), first_job=first_job)
    slurm = LocalSlurm(chosen)
    slurm.up()
    return slurm, False


def _main() -> int:
    parser = argparse.ArgumentParser(prog="tests.slurm.testbed", description=TITLE)
    parser.add_argument("action", choices=("up", "down", "status", "env"))
    parser.add_argument("--folder", type=Path, default=Path("build/slurm"))
    parser.add_argument("--tracker", choices=TRACKERS, default="linuxproc")
    parser.add_argument("--accounting", action="store_true")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--send-user-signal", action="store_true")
    parser.add_argument("--preempt-mode", choices=PREEMPT_MODES, default="REQUEUE")
    parser.add_argument("--job-requeue", type=int, choices=(0, 1), default=1)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        if arguments.action == "up":
            settings = Settings(
                folder,
                arguments.tracker,
                arguments.accounting,
                arguments.nodes,
                send_user_signal=arguments.send_user_signal,
                preempt_mode=arguments.preempt_mode,
                job_requeue=arguments.job_requeue,
            )
            return _up(settings)
        return _other(arguments.action, folder)
    except (TestbedError, ValueError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _up(settings: Settings) -> int:
    start = time.monotonic()
    slurm, was_up = bring_up(settings)
    took = "was up already" if was_up else f"up in {time.monotonic() - start:.1f} s"
    print(f"# {settings.num_nodes} nodes x {GPUS_PER_NODE} fake GPUs, {took}. In your shell:")
    print(f"export SLURM_CONF={slurm.settings.slurm_conf}")
    print("# then: sinfo; srun -N2 hostname; sbatch --gpus-per-node=2 --wrap 'env | grep CUDA'")
    print("# partitions: a100 (default), nograce, and urgent, which preempts them:")
    print("#   sbatch -p urgent --exclusive -N4 --wrap 'sleep 60'")
    return 0


def _other(action: str, folder: Path) -> int:
    slurm = LocalSlurm.load(folder)
    if slurm is None:
        print(f"no local Slurm in {folder}")
        return 0 if action == "down" else 1
    if action == "down":
        start = time.monotonic()
        slurm.down()
        print(f"{folder} is gone, in {time.monotonic() - start:.1f} s")
        return 0
    if action == "env":
        print(f"export SLURM_CONF={slurm.settings.slurm_conf}")
        return 0
    for name in slurm.daemon_names:
        print(f"{name:10} {slurm.daemon(name).pid or 'not running'}")
    print("nodes:", slurm.node_states() or "no answer")
    return 0 if slurm.is_up() else 1


if __name__ == "__main__":
    sys.exit(_main())
