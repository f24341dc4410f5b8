"""Which files of a source tree belong to it: tracked, modified and untracked, nothing ignored.

Git lists where it is installed, also for a tree that is no repository (its `.gitignore` files count
all the same); without git, `jobs.ignore` walks. The user's repository and index are only read.
Submodules and repositories inside are entered; another work tree of the same repository is not.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from jobs.errors import SnapshotError
from jobs.git import GitQuestion, git_folder, git_output
from jobs.ignore import ALWAYS_IGNORED, IgnoreRules

logger = logging.getLogger(__name__)

_LIST = ("ls-files", "-z", "-t", "-v", "--others", "--exclude-standard")
_UNTRACKED, _SKIPPED = "?", "Ss"


@dataclass(frozen=True)
class Repository:
    """One git repository of a source tree.

    Attributes:
        folder: "" for the tree's own, else as `third/library/`.
        untracked: files that git does not track, relative to the folder.
        unwatched: tracked files whose changes git was told not to look at.
    """

    folder: str
    untracked: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceTree:
    """The files and symbolic links of a tree, and the repositories that they are in.

    Attributes:
        states: relative path with `/` -> lstat.
        repositories: outermost first; empty where there is none, or no git.
    """

    states: dict[str, os.stat_result]
    repositories: tuple[Repository, ...] = ()


@dataclass(frozen=True)
class _Listing:
    names: list[str]
    repository: Repository | None = None


def scan_files(root: Path, include: Sequence[str] = (), expected: Iterable[str] = ()) -> SourceTree:
    """Look at every file of a tree.

    Deleted tracked files are absent.

    Args:
        root: the tree.
        include: glob patterns, relative to the root, of ignored files that belong to it all the
            same: `build/*.so`, `third/lib` (a folder with all in it), `**/*.pb2.py`.
        expected: paths that are likely there; they are looked at while git still lists.

    Raises:
        SnapshotError: if the tree is not a folder, git cannot list it, or a pattern of `include`
            matches nothing or leaves the tree.
    """
    if not root.is_dir():
        raise SnapshotError(f"no folder to take a snapshot of: {root}")
    found: dict[str, os.stat_result] = {}
    repositories: list[Repository] = []
    looked: dict[str, os.stat_result] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        question = _ask(os.path.join(root, folder))
        if not folder:
            _look(f"{root}/", expected, looked)
        listing = _listing(os.path.join(root, folder), folder, question)
        if listing.repository is not None:
            repositories.append(listing.repository)
        for name in listing.names:
            path = folder + name.rstrip("/")
            state = looked.get(path) or _lstat(f"{root}/{path}")
            if state is None or "/__pycache__/" in f"/{path}":
                continue  # deleted in the work tree; or it would make every run's code a new one
            if stat.S_ISREG(state.st_mode) or stat.S_ISLNK(state.st_mode):
                found[path] = state
            elif _is_other_repository(root, path):
                pending.append(path + "/")
    included = [path for path in _find_included(root, include) if path not in found]
    for path in included:
        state = _lstat(f"{root}/{path}")
        if state and (stat.S_ISREG(state.st_mode) or stat.S_ISLNK(state.st_mode)):
            found[path] = state
    return SourceTree(found, _with_untracked(repositories, included))


def _with_untracked(
    repositories: Sequence[Repository], paths: Sequence[str]
) -> tuple[Repository, ...]:
    """Give every path to the innermost repository that it lies in."""
    extra: dict[str, list[str]] = {}
    for path in paths:
        around = [each.folder for each in repositories if path.startswith(each.folder)]
        for folder in sorted(around, key=len)[-1:]:
            extra.setdefault(folder, []).append(path[len(folder) :])
    return tuple(
        replace(each, untracked=(*each.untracked, *extra.get(each.folder, ())))
        for each in repositories
    )


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _look(prefix: str, paths: Iterable[str], looked: dict[str, os.stat_result]) -> None:
    lstat = os.lstat
    for path in paths:
        try:
            looked[path] = lstat(prefix + path)
        except OSError:
            continue  # git will say whether it is still one of the files


def _is_other_repository(root: str | Path, path: str) -> bool:
    """Return whether a folder is a submodule or a repository, no second work tree of our own."""
    if not os.path.lexists(f"{root}/{path}/.git"):
        logger.info("%s: its submodule is not checked out, so the copy does not have it", path)
        return False
    if os.path.isdir(f"{root}/{path}/.git"):
        return True
    inside, ours = git_folder(f"{root}/{path}"), git_folder(str(root))
    return not ours or os.path.realpath(inside) != os.path.realpath(ours)


def _ask(root: str) -> GitQuestion | None:
    if not _has_repository(root):
        return None
    return GitQuestion.ask(root, *_LIST, "--cached")


def _listing(root: str, folder: str, question: GitQuestion | None) -> _Listing:
    if question is None:
        text = _list_outside(root)
        if text is None:
            return _Listing(walk_files(root))
        return _Listing([record[2:] for record in text.split("\0")[:-1]])
    names: dict[str, None] = {}  # a file in conflict is listed once per side
    untracked: list[str] = []
    unwatched: list[str] = []
    for record in os.fsdecode(question.answer()).split("\0")[:-1]:
        tag, name = record[0], record[2:]
        names[name] = None
        if tag == _UNTRACKED:
            untracked.append(name)
        elif tag in _SKIPPED or tag.islower():
            unwatched.append(name)
    there = tuple(name for name in unwatched if os.path.lexists(f"{root}/{name}"))
    files = tuple(name for name in untracked if not name.endswith("/"))
    return _Listing(list(names), Repository(folder, files, there))


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
    """Return the files below `root` that no ignore rule leaves out, without help from git.

    A tracked file that is ignored all the same is left out: only git knows what is tracked.
    """
    found: list[str] = []
    pending = [("", IgnoreRules.of_repository(str(root)))]
    while pending:
        folder, rules = pending.pop()
        rules = rules.enter(str(root), folder)
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = folder + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if rules.ignores(path, is_folder):
                    continue
                if not is_folder:
                    found.append(path)
                elif not os.path.lexists(f"{entry.path}/.git"):
                    pending.append((path + "/", rules))
                elif _is_other_repository(root, path):
                    pending.append((path + "/", IgnoreRules.of_repository(str(root), path + "/")))
    return found


def _find_included(root: Path, patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return []
    from glob import iglob  # only those who include something pay for it

    found: list[str] = []
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith(("/", "~")) or ".." in parts:
            raise SnapshotError(
                f"include {pattern!r}: a pattern inside of {root}, such as build/*.so"
            )
        matches = [
            path
            for match in iglob(pattern, root_dir=root, recursive=True, include_hidden=True)
            for path in _below(root, match.rstrip("/"))
        ]
        if not matches:
            raise SnapshotError(
                f"include {pattern!r} matches no file below {root}: build what it names, or take "
                "it out of --include and of `snapshot: include` in configs/defaults.yaml"
            )
        found += matches
    return found


def _below(root: Path, match: str) -> list[str]:
    """Return a file, or all files of a folder; nothing that is reached through a linked folder."""
    top = root / match
    if any(part in ALWAYS_IGNORED for part in PurePosixPath(match).parts):
        return []
    if os.path.realpath(top.parent) != os.path.join(
        os.path.realpath(root), *Path(match).parts[:-1]
    ):
        return []
    if top.is_symlink() or not top.is_dir():
        return [match] if match and (top.is_symlink() or top.is_file()) else []
    found: list[str] = []
    for folder, folders, names in os.walk(top):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in ALWAYS_IGNORED and name not in linked]
        inside = Path(folder).relative_to(root)
        found += [(inside / name).as_posix() for name in [*names, *linked]]
    return found
