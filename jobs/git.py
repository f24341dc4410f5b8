"""The one place that runs git: reads only, the user's repository and index are never written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import SnapshotError

# A git hook that starts a launcher sets these for its own repository.
_LOCAL = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
)


def git_output(root: str | Path, *arguments: str) -> str | None:
    """Return what `git <arguments>` prints in `root`; None where git is absent.

    Raises:
        SnapshotError: if git fails; the message is git's.
    """
    try:
        done = _start(root, arguments)
    except FileNotFoundError:
        return None
    output, message = done.communicate()
    if done.returncode != 0:
        raise SnapshotError(f"git {arguments[0]} failed in {root}: {os.fsdecode(message).strip()}")
    return os.fsdecode(output)


def git_outputs(
    root: str | Path, questions: Mapping[str, Sequence[str]]
) -> dict[str, bytes | None]:
    """Ask git several things at once; None for those it cannot answer here."""
    try:
        started = {name: _start(root, arguments) for name, arguments in questions.items()}
    except FileNotFoundError:
        return dict.fromkeys(questions)
    answers: dict[str, bytes | None] = {}
    for name, process in started.items():
        output, _ = process.communicate()
        answers[name] = output if process.returncode == 0 else None
    return answers


def _start(root: str | Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # In containers the tree often belongs to another user, which git refuses; what it guards
    # against, code of the tree being run, is what a launcher is for.
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", *arguments]
    env = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    return subprocess.Popen(
        command,
        cwd=root,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
