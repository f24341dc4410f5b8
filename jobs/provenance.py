"""What a run was made from and where: enough to explain it years later, nothing secret.

`<folder>/provenance.json` (git, command, host, python, Slurm), `diff.patch` (the copied tree
against the commits, untracked files too), `untracked.txt`, `environment.json`, `packages.txt`.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.errors import SubmitError
from jobs.file_list import Repository, scan_files
from jobs.patch import Changes, Inspection

MASK = "(masked)"
_SECRET = re.compile(
    r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|WEBHOOK|DSN", re.IGNORECASE
)
_LOGIN_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
# What explains how a job was treated: signals, limits, preemption.
_SLURM_KEYS = (
    *("SLURM_VERSION", "ClusterName", "ProctrackType", "PreemptType", "PreemptMode"),
    *("PreemptParameters", "KillWait", "JobRequeue", "MaxArraySize", "SchedulerParameters"),
    *("SelectType", "SelectTypeParameters", "TaskPlugin", "GresTypes", "AccountingStorageType"),
    *("SlurmdParameters", "SlurmctldParameters", "LaunchParameters"),
)


class Provenance:
    """What is known of a launch; git and Slurm are asked at once and waited for in `write`.

    Args:
        source: the tree that the code comes from.
        repositories: of the tree, as its snapshot saw them; none where there is none.
        ask_slurm: whether the run goes to Slurm.
    """

    def __init__(
        self, source: Path, repositories: Sequence[Repository] = (), *, ask_slurm: bool = False
    ) -> None:
        self._source = source
        self._inspection = Inspection(source, repositories)
        self._slurm = slurm.ask_configuration() if ask_slurm else None

    def write(self, folder: Path, argv: Sequence[str]) -> None:
        """Write the files of this module's head.

        Args:
            folder: made if absent.
            argv: the command line as it was given.
        """
        changes = self._inspection.changes()
        folder.mkdir(parents=True, exist_ok=True)
        main = next((each for each in changes if not each.folder), None)
        patch = b"".join(each.patch for each in changes)
        untracked = [each.folder + name for each in changes for name in each.untracked]
        configuration = self._slurm_configuration()
        facts: dict[str, Any] = {
            "schema": 2,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": {
                **(_git_facts(main) if main else {"sha": "", "branch": "", "remote": ""}),
                "dirty": bool(patch or untracked),
            },
            "repositories": {
                each.folder.rstrip("/"): {**_git_facts(each), "base": each.base}
                for each in changes
                if each.folder
            },
            "patch_without": [each.folder + name for each in changes for name in each.left_out],
            "argv": mask_arguments(argv),
            "source": str(self._source),
            "host": socket.gethostname(),
            "user": _user(),
            "platform": " ".join(os.uname()[each] for each in (0, 2, 4)),
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "slurm": configuration.get("SLURM_VERSION"),
            "slurm_configuration": configuration,
        }
        _write(folder / "provenance.json", json.dumps(facts, indent=1).encode())
        _write(folder / "diff.patch", patch)
        _write(folder / "untracked.txt", os.fsencode("".join(f"{path}\n" for path in untracked)))
        environment = json.dumps(mask_environment(os.environ), indent=1, sort_keys=True)
        _write(folder / "environment.json", environment.encode())
        packages = "".join(f"{name}\n" for name in find_packages())
        _write(folder / "packages.txt", packages.encode())

    def _slurm_configuration(self) -> dict[str, str]:
        if self._slurm is None:
            return {}
        try:
            found = self._slurm()
        except SubmitError as error:
            return {"error": str(error)}
        return {key: found[key] for key in _SLURM_KEYS if key in found}


def write_provenance(source: Path, folder: Path, argv: Sequence[str]) -> None:
    """Write the provenance of a tree that is looked at only now; Slurm is not asked."""
    Provenance(source, scan_files(source).repositories).write(folder, argv)


def _git_facts(changes: Changes) -> dict[str, str]:
    remote = strip_login(changes.remote)
    return {"sha": changes.sha, "branch": changes.branch, "remote": remote}


def mask_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy without the values of secrets: by name, and logins inside addresses."""
    return {
        name: MASK if _SECRET.search(name) else strip_login(value)
        for name, value in environment.items()
    }


def mask_arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments without secrets: `--token x`, `--token=x` and `api_key=x`."""
    masked: list[str] = []
    is_secret = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if is_secret and not argument.startswith("-"):
            masked.append(MASK)
        elif equals and _SECRET.search(name):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(strip_login(argument))
        is_secret = argument.startswith("--") and not equals and bool(_SECRET.search(name))
    return masked


def strip_login(text: str) -> str:
    """Return text whose addresses have lost `user:password@`."""
    return _LOGIN_IN_URL.sub("", text)


def find_packages() -> list[str]:
    """Return `name==version` of every installed distribution, first on the path wins.

    Folder names of the metadata say it; opening 100 metadata files takes 0.2 s.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue
        for name in names:
            match = re.fullmatch(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info", name)
            if match:
                found.setdefault(match[1].lower().replace("_", "-"), match[2])
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container without an entry for this user


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, path)
