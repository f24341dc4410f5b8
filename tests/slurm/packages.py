"""Debian's packages behind the local Slurm: what is missing, and its installation as root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.slurm.errors import UnavailableError

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PACKAGES = ("munge", "slurm-wlm")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacct")
ACCOUNTING_PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
LOCK_WAIT_SEC = 300
POLICY = Path("/usr/sbin/policy-rc.d")


def find_program(name: str) -> str | None:
    """Path of a program; daemons live in sbin folders that a user's PATH often lacks."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def missing_programs(accounting: bool) -> list[str]:
    """Programs the testbed needs and this machine lacks."""
    wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in wanted if find_program(name) is None]


def ensure_packages(accounting: bool) -> None:
    """Install what is missing.

    Raises:
        UnavailableError: something is missing and cannot be installed here.
    """
    missing = missing_programs(accounting)
    if not missing:
        return
    packages = PACKAGES + (ACCOUNTING_PACKAGES if accounting else ())
    need = f"Slurm's programs {', '.join(missing)} are missing"
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0:
        raise UnavailableError(f"{need} and only root can install them; as root run: {by_hand}")
    if find_program("apt-get") is None:
        raise UnavailableError(f"{need} and this is no Debian; install the like of: {by_hand}")
    install(*packages)
    still = missing_programs(accounting)
    if still:
        raise UnavailableError(
            f"apt-get installed {' '.join(packages)}, yet {', '.join(still)} lack"
        )


def install(*packages: str) -> None:
    """Install Debian packages without starting their services.

    Raises:
        UnavailableError: apt-get failed; its words are in the message.
    """
    with _one_installer_at_a_time(), _services_kept_from_starting():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *packages)


@contextlib.contextmanager
def _one_installer_at_a_time() -> Iterator[None]:
    # A lock on dpkg's folder itself leaves no lock file behind; dpkg locks a file in it.
    handle = os.open("/var/lib/dpkg", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _services_kept_from_starting() -> Iterator[None]:
    """Debian's scripts ask policy-rc.d before they start a service: 101 means no."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "-q", "-o", f"DPkg::Lock::Timeout={LOCK_WAIT_SEC}", *arguments]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    end = time.monotonic() + LOCK_WAIT_SEC
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        # DPkg::Lock::Timeout does not cover the lock on the package lists.
        if "Could not get lock" not in done.stderr or time.monotonic() > end:
            tail = (done.stdout + done.stderr)[-1500:]
            raise UnavailableError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
        time.sleep(2)
