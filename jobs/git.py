"""The one place that runs git: reads only, the user's repository and index are never written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from jobs.errors import SnapshotError

# A git hook that starts a launcher sets these for its own repository.
_LOCAL = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
)
# In containers the tree often belongs to another user, which git refuses; what it guards against,
# code of the tree being run, is what a launcher is for. A file system monitor may lag behind.
_COMMAND = (
    *("git", "--no-optional-locks"),
    *("-c", "safe.directory=*", "-c", "core.fsmonitor=false"),
)


class GitQuestion:
    """One git command that was started and will be waited for."""

    def __init__(self, root: str | Path, process: subprocess.Popen[bytes], name: str) -> None:
        self._root = root
        self._process = process
        self._name = name

    @classmethod
    def ask(
        cls, root: str | Path, *arguments: str, env: Mapping[str, str] | None = None
    ) -> GitQuestion | None:
        """Start `git <arguments>` in `root`; None where git is absent.

        Args:
            env: variables for git on top of this process's.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in _LOCAL}
        try:
            process = subprocess.Popen(
                [*_COMMAND, *arguments],
                cwd=root,
                env={**inherited, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            return None
        return cls(root, process, arguments[0])

    def answer(self, words: bytes = b"") -> bytes:
        """Return what git prints.

        Args:
            words: for its standard input.

        Raises:
            SnapshotError: if git fails; the message is git's.
        """
        output, message = self._process.communicate(words)
        if self._process.returncode != 0:
            text = os.fsdecode(message).strip()
            raise SnapshotError(f"git {self._name} failed in {self._root}: {text}")
        return output

    def answer_or_none(self) -> bytes | None:
        """Return what git prints; None if it cannot say."""
        try:
            return self.answer()
        except SnapshotError:
            return None


def git_output(root: str | Path, *arguments: str) -> str | None:
    """Return what `git <arguments>` prints in `root`; None where git is absent.

    Raises:
        SnapshotError: if git fails; the message is git's.
    """
    question = GitQuestion.ask(root, *arguments)
    return None if question is None else os.fsdecode(question.answer())


def git_folder(root: str) -> str:
    """Return the folder that work trees of a repository share; "" where there is none."""
    path = os.path.join(root, ".git")
    if os.path.isdir(path):
        return path
    try:
        with open(path, encoding="utf-8") as file:
            link = os.path.join(root, file.read().removeprefix("gitdir:").strip())
    except (OSError, UnicodeDecodeError):
        return ""
    try:
        with open(os.path.join(link, "commondir"), encoding="utf-8") as file:
            return os.path.join(link, file.read().strip())
    except OSError:
        return link
