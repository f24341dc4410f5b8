"""The cgroup v1 freezer for proctrack/cgroup: a private mount, its groups and their end."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.slurm.configuration import Settings
from tests.slurm.errors import TrackerUnavailableError
from tests.slurm.processes import send


def mount_freezer(settings: Settings) -> None:
    """Mount the v1 freezer inside the testbed's folder, where its cgroup.conf points.

    Raises:
        TrackerUnavailableError: this kernel or container does not allow it.
    """
    known = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()]
    if not any(line[0] == "freezer" and line[3] == "1" for line in known if len(line) == 4):
        raise TrackerUnavailableError("proctrack/cgroup: this kernel has no cgroup v1 freezer")
    settings.freezer.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "cgroup", "-o", "freezer", "freezer", str(settings.freezer)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TrackerUnavailableError(
            "proctrack/cgroup: the cgroup v1 freezer cannot be mounted here "
            f"(a container needs CAP_SYS_ADMIN): {done.stderr.strip()}"
        )


def is_mounted(settings: Settings) -> bool:
    """Whether our freezer is mounted now."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    return any(line.split()[1] == str(settings.freezer) for line in mounts)


def own_groups(settings: Settings) -> list[Path]:
    """Groups of our nodes' jobs, children first. The hierarchy is shared by all testbeds of this
    machine; job ids, which start at a place of our own, tell ours from others'."""
    jobs = range(settings.first_job, settings.first_job + 10_000)
    roots = [
        path
        for path in settings.freezer.glob("slurm_node*/uid_*/job_*")
        if path.name.removeprefix("job_").isdigit() and int(path.name.removeprefix("job_")) in jobs
    ]
    folders = [path for root in roots for path in [root, *root.rglob("*")] if path.is_dir()]
    return sorted(folders, key=lambda path: len(path.parts), reverse=True)


def kill_groups(settings: Settings) -> None:
    """Kill what lives in our groups (a frozen process dies only once thawed)."""
    for group in own_groups(settings):
        (group / "freezer.state").write_text("THAWED")
        for pid in (group / "tasks").read_text().split():
            send(int(pid), signal.SIGKILL)


def unmount_freezer(settings: Settings) -> None:
    """Remove our groups and the mount."""
    if not is_mounted(settings):
        return
    for group in own_groups(settings):
        _remove(group, seconds=5.0)
    # Empty once no other testbed uses them; a group in use cannot be removed, and stays.
    for pattern in ("slurm_node*/uid_*", "slurm_node*"):
        for group in settings.freezer.glob(pattern):
            _remove(group, seconds=0.0)
    subprocess.run(["umount", str(settings.freezer)], check=True)


def _remove(group: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # EBUSY: a process is still leaving it, or another testbed's group is below
            if time.monotonic() > end:
                return
            time.sleep(0.02)
