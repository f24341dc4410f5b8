"""Which files of a source tree belong to it: tracked, modified and untracked, nothing ignored.

Git lists where it is installed, also for a tree that is no repository (its `.gitignore` files count
all the same); without git, `jobs.ignore` walks. The user's repository and index are only read.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from jobs.errors import SnapshotError
from jobs.git import git_output
from jobs.ignore import IgnoreRules

_LIST = ("ls-files", "-z", "--others", "--exclude-standard")


def scan_files(root: Path) -> dict[str, os.stat_result]:
    """Return the tree's files and symbolic links, relative path with `/` -> lstat.

    Deleted tracked files are absent, folders of submodules and of repositories inside are entered.

    Raises:
        SnapshotError: if the tree is not a folder or git cannot list it.
    """
    if not root.is_dir():
        raise SnapshotError(f"no folder to take a snapshot of: {root}")
    found: dict[str, os.stat_result] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        for name in _list_files(os.path.join(root, folder)):
            path = folder + name.rstrip("/")
            if "__pycache__/" in path:
                continue  # would make every run's code a new one where it is not ignored
            try:
                state = os.lstat(f"{root}/{path}")
            except (FileNotFoundError, NotADirectoryError):
                continue  # tracked, deleted in the work tree
            if stat.S_ISREG(state.st_mode) or stat.S_ISLNK(state.st_mode):
                found[path] = state
            elif os.path.exists(f"{root}/{path}/.git"):
                pending.append(path + "/")
    return found


def _list_files(root: str) -> list[str]:
    text = git_output(root, *_LIST, "--cached") if _has_repository(root) else _list_outside(root)
    if text is None:
        return walk_files(root)
    return text.split("\0")[:-1]


def _has_repository(root: str) -> bool:
    if os.path.exists(os.path.join(root, ".git")):
        return True
    try:
        if git_output(root, "rev-parse", "--is-inside-work-tree") is None:
            return False
    except SnapshotError:
        return False
    try:
        git_output(root, "check-ignore", "-q", ".")
    except SnapshotError:
        return True  # exit 1: a folder of the repository above
    return False  # ignored by the repository above: a tree of its own


def _list_outside(root: str) -> str | None:
    """Return git's list for a tree that is no repository, through an empty one elsewhere."""
    with tempfile.TemporaryDirectory() as scratch:
        if git_output(scratch, "init", "-q", "--template=") is None:
            return None
        return git_output(root, f"--git-dir={scratch}/.git", f"--work-tree={root}", *_LIST)


def walk_files(root: str | Path) -> list[str]:
    """Return the files below `root` that no `.gitignore` leaves out, without help from git."""
    found: list[str] = []
    pending = [("", IgnoreRules())]
    while pending:
        folder, rules = pending.pop()
        rules = rules.enter(str(root), folder)
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = folder + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if rules.ignores(path, is_folder):
                    continue
                if is_folder:
                    pending.append((path + "/", rules))
                else:
                    found.append(path)
    return found
