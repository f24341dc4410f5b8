"""What a source tree's repositories hold beyond their commits, as one patch.

`git apply` of the patch on a checkout of the commits gives the tree that was copied: edits,
deletions, modes, binary files, files that git does not track. As everywhere in git, the bytes are
those after the clean filters of `.gitattributes`. Git works on a copy of the user's index.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import SnapshotError
from jobs.file_list import Repository
from jobs.git import GitQuestion

logger = logging.getLogger(__name__)

# Untracked files above this sum are named, not copied into the patch: the snapshot has them.
UNTRACKED_BYTES = 20 * 2**20

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_DIFF = (
    *("-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false", "diff", "--relative"),
    *("--binary", "--full-index", "--no-ext-diff", "--no-color", "--no-textconv", "--no-renames"),
    "--ignore-submodules=all",
)
_STATUS = (
    *("status", "--porcelain=v2", "--branch", "-z"),
    *("--untracked-files=no", "--ignore-submodules=all"),
)


@dataclass(frozen=True)
class Changes:
    """One repository against its commit.

    Attributes:
        folder: "" for the tree's own, else as `third/library/`.
        sha: the commit that is checked out; "" before the first one.
        base: the commit that the patch is against; for a submodule the one that the repository
            around it names, where it is there.
        branch: "" where a commit is checked out by itself.
        remote: address of origin, else of the first remote, as git knows it.
        left_out: untracked files that are too large for the patch.
    """

    folder: str
    sha: str
    base: str
    branch: str
    remote: str
    patch: bytes
    untracked: tuple[str, ...]
    left_out: tuple[str, ...]


class Inspection:
    """Git's questions about the repositories of a tree, asked at once and answered later."""

    def __init__(self, source: Path, repositories: Sequence[Repository]) -> None:
        self._parts = [_Part(source, each, repositories) for each in repositories]

    def changes(self) -> list[Changes]:
        """Return what git says, one entry per repository, outermost first."""
        return [part.changes() for part in self._parts]


class _Part:
    def __init__(
        self, source: Path, repository: Repository, everything: Sequence[Repository]
    ) -> None:
        self._repository = repository
        self._root = source / repository.folder
        self._status = GitQuestion.ask(self._root, *_STATUS)
        self._remotes = GitQuestion.ask(
            self._root, "config", "-z", "--get-regexp", r"^remote\..*\.url$"
        )
        self._recorded = _ask_recorded(source, repository.folder, everything)
        self._places = self._diff = None
        if repository.untracked or repository.unwatched:
            places = ("--git-path", "index", "--git-path", "objects")
            self._places = GitQuestion.ask(self._root, "rev-parse", *places)
        elif not repository.folder:
            self._diff = self._ask_diff("HEAD")

    def changes(self) -> Changes:
        heads = _heads(_answer(self._status))
        sha = heads.get("branch.oid", "").replace("(initial)", "")
        base, patch, left_out = self._find_patch(sha)
        return Changes(
            folder=self._repository.folder,
            sha=sha,
            base=base if sha else "",
            branch=heads.get("branch.head", "").replace("(detached)", ""),
            remote=_first_remote(_answer(self._remotes)),
            patch=patch,
            untracked=self._repository.untracked,
            left_out=left_out,
        )

    def _find_patch(self, sha: str) -> tuple[str, bytes, tuple[str, ...]]:
        """Return the commit that the patch is against, the patch, and what it leaves out."""
        if self._diff is not None and sha and (patch := _maybe(self._diff)) is not None:
            return sha, patch, ()
        small, left_out = self._split_untracked()
        recorded = _answer(self._recorded).strip().decode()
        with tempfile.TemporaryDirectory() as scratch:
            try:
                env = self._scratch_index(Path(scratch), small)
            except SnapshotError as error:
                logger.warning("the patch lacks files that git does not track: %s", error)
                env, left_out = None, self._repository.untracked
            for base in filter(None, (recorded, sha or _EMPTY_TREE)):
                patch = _maybe(self._ask_diff(base, env))
                if patch is not None:
                    return base, patch, left_out
        logger.warning("no patch of %s: git cannot compare it with its commit", self._root)
        return sha, b"", self._repository.untracked

    def _ask_diff(self, base: str, env: dict[str, str] | None = None) -> GitQuestion | None:
        folder = self._repository.folder
        prefixes = (f"--src-prefix=a/{folder}", f"--dst-prefix=b/{folder}")
        return GitQuestion.ask(self._root, *_DIFF, *prefixes, base, "--", env=env)

    def _split_untracked(self) -> tuple[list[str], tuple[str, ...]]:
        """Return the untracked files that go into the patch, the smallest first, and the others."""
        sizes = {name: _size(self._root / name) for name in self._repository.untracked}
        small: list[str] = []
        room = UNTRACKED_BYTES
        for name in sorted(sizes, key=lambda name: (sizes[name], name)):
            room -= sizes[name]
            if room >= 0:
                small.append(name)
        taken = set(small)
        return small, tuple(name for name in sizes if name not in taken)

    def _scratch_index(self, scratch: Path, untracked: Iterable[str]) -> dict[str, str] | None:
        """Return the variables for an index that knows all files, None if the user's does."""
        if self._places is None:
            return None
        users, objects = (self._root / os.fsdecode(p) for p in self._places.answer().splitlines())
        index = scratch / "index"
        if users.is_file():
            shutil.copy2(users, index)  # with its time, by which git knows what it must look at
        (scratch / "objects").mkdir()
        env = {
            "GIT_INDEX_FILE": str(index),
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.resolve()),
        }
        names = _lines(untracked)
        if names:
            add = ("add", "--intent-to-add", "--force", "--pathspec-from-file=-")
            self._change_index(env, names, *add, "--pathspec-file-nul")
        unwatched = _lines(self._repository.unwatched)
        if unwatched:
            for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
                self._change_index(env, unwatched, "update-index", flag, "-z", "--stdin")
        return env

    def _change_index(self, env: dict[str, str], names: bytes, *arguments: str) -> None:
        question = GitQuestion.ask(self._root, *arguments, env=env)
        if question is not None:
            question.answer(names)


def _ask_recorded(
    source: Path, folder: str, repositories: Sequence[Repository]
) -> GitQuestion | None:
    """Ask which commit of a submodule the repository around it names."""
    if not folder:
        return None
    around = [each.folder for each in repositories if folder.startswith(each.folder)]
    outer = max((each for each in around if each != folder), key=len, default=None)
    if outer is None:
        return None
    path = folder.removeprefix(outer).rstrip("/")
    return GitQuestion.ask(source / outer, "rev-parse", "--quiet", "--verify", f"HEAD:./{path}")


def _answer(question: GitQuestion | None) -> bytes:
    return _maybe(question) or b""


def _maybe(question: GitQuestion | None) -> bytes | None:
    return question.answer_or_none() if question else None


def _heads(status: bytes) -> dict[str, str]:
    lines = os.fsdecode(status).split("\0")
    return dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))


def _first_remote(text: bytes) -> str:
    pairs = [pair.partition("\n") for pair in os.fsdecode(text).split("\0") if pair]
    remotes = {key: address for key, _, address in pairs}
    return remotes.get("remote.origin.url") or next(iter(remotes.values()), "")


def _lines(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0  # gone since; git will say so
