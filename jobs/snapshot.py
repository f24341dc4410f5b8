"""Copy the code a job will run to a folder named by its content.

`<store>/<tree hash>/` holds the files, read-only, and `.snapshot`, the list whose hash is the
folder's name: one `mode hash path` record per file, sorted, each ended by a zero byte. The same
content is stored once; a folder appears whole, by rename. Unchanged files become hard links to the
previous snapshot. Nothing in the source tree or its git repository is written.
`<store>/.used/` says when which snapshot was taken and `.users` whose runs refer to the store, so
that `jobs.garbage` removes none in use.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.errors import SnapshotError
from jobs.file_list import Repository, scan_files
from jobs.links import warn_of_links
from jobs.snapshot_rules import SnapshotRules
from jobs.stat_cache import (
    StatCache,
    file_system_time_ns,
    load_stat_cache,
    make_record,
    save_stat_cache,
)

logger = logging.getLogger(__name__)

MANIFEST = ".snapshot"
USED, USERS = ".used", ".users"
HALF_WRITTEN, REMOVED = ".new-", ".gone-"
ATTEMPTS = 3
_KEEP_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Snapshot:
    """A stored copy of a source tree.

    Attributes:
        repositories: the git repositories of the source, as they were seen.
    """

    path: Path
    tree_hash: str
    repositories: tuple[Repository, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class _Tree:
    """What a source tree holds now; `contents` keeps small files that were read on the way."""

    states: dict[str, os.stat_result]
    hashes: dict[str, str]
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def manifest(self) -> bytes:
        records = [
            f"{_git_mode(self.states[path].st_mode)} {digest} {path}\0"
            for path, digest in sorted(self.hashes.items())
        ]
        return os.fsencode("".join(records))


class _ChangedError(Exception):
    """A source file changed while it was copied."""


def take_snapshot(
    source: Path, store: Path, exclude: Sequence[Path] = (), rules: SnapshotRules | None = None
) -> Snapshot:
    """Store the tree's tracked, modified and untracked files, without ignored ones.

    Args:
        source: the project's root, a git repository or not.
        store: folder of all snapshots; itself never part of one.
        exclude: folders of runs, left out although nothing ignores them; the store remembers that
            their runs may refer to it.
        rules: what else belongs to it, and its size.

    Raises:
        SnapshotError: if the tree is too large (the worst files are named), unreadable, or does
            not stop changing.
    """
    rules = rules or SnapshotRules()
    source, store = source.resolve(), store.resolve()
    try:
        store.mkdir(parents=True, exist_ok=True)
        _remember_users(store, exclude)
        for _ in range(ATTEMPTS - 1):
            try:
                return _take(source, store, exclude, rules)
            except _ChangedError as error:
                logger.info("%s changed while it was copied, starting again", error)
        return _take(source, store, exclude, rules)
    except _ChangedError as error:
        raise SnapshotError(f"{error} changes faster than it can be copied") from error
    except OSError as error:
        raise SnapshotError(f"cannot copy {source} to {store}: {error}") from error


def verify_snapshot(path: Path) -> None:
    """Check every file of a snapshot against the hash that names its folder.

    Raises:
        SnapshotError: naming a file that was changed, removed or added.
    """
    try:
        manifest = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path} is no complete snapshot: {error}") from error
    if _tree_hash(manifest) != path.name:
        raise SnapshotError(_damaged(path, MANIFEST, "was changed"))
    listed = read_manifest(manifest)
    for name, (mode, digest) in listed.items():
        file = path / name
        try:
            state = os.lstat(file)
            is_same = _git_mode(state.st_mode) == mode and _read(file, state)[0] == digest
        except OSError as error:
            raise SnapshotError(
                _damaged(path, name, f"cannot be read ({error.strerror})")
            ) from error
        if not is_same:
            raise SnapshotError(_damaged(path, name, "was changed"))
    for name in _walk(path):
        if name not in listed and name != MANIFEST:
            raise SnapshotError(_damaged(path, name, "was added"))


def read_manifest(manifest: bytes) -> dict[str, tuple[str, str]]:
    """Return path -> (git mode, hash) of the bytes of a `.snapshot` file."""
    listed: dict[str, tuple[str, str]] = {}
    for record in os.fsdecode(manifest).split("\0")[:-1]:
        mode, digest, name = record.split(" ", 2)
        listed[name] = (mode, digest)
    return listed


def _take(source: Path, store: Path, exclude: Sequence[Path], rules: SnapshotRules) -> Snapshot:
    cache_path = store / f".stat-{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}.json"
    cache = load_stat_cache(cache_path)
    scanned = scan_files(source, rules.include, expected=cache.records)
    states = _leave_out(scanned.states, source, [store, *exclude])
    states.pop(MANIFEST, None)  # source may be a snapshot itself
    _guard_size(states, source, rules)
    warn_of_links(source, states)
    hashes = {path: cache.find(path, state) for path, state in states.items()}
    stale = [path for path, digest in hashes.items() if digest is None]
    started_ns = file_system_time_ns(store) if stale else cache.started_ns
    read, contents = _read_all(source, states, stale)
    tree = _Tree(states, {path: digest or read[path] for path, digest in hashes.items()}, contents)
    manifest = tree.manifest()
    tree_hash = _tree_hash(manifest)
    repositories = tuple(_without(each, states) for each in scanned.repositories)
    snapshot = Snapshot(store / tree_hash, tree_hash, repositories)
    mark_used(snapshot.path)
    if not _is_whole(snapshot.path):
        _store(source, snapshot, tree, manifest, store / cache.last if cache.last else None)
    if stale or len(states) != len(cache.records) or cache.last != tree_hash:
        records = {path: make_record(state, tree.hashes[path]) for path, state in states.items()}
        save_stat_cache(cache_path, StatCache(tree_hash, started_ns, records))
    return snapshot


def mark_used(snapshot: Path) -> None:
    """Note that a launch is about to use a snapshot, before looking whether it is there.

    Whoever removes snapshots takes one away first and looks at this note then, so either the
    remover sees the note, or the launch sees that the snapshot is away.
    """
    note = snapshot.parent / USED / f"{snapshot.name}.{os.getuid()}"
    try:
        os.utime(note)
    except FileNotFoundError:
        note.parent.mkdir(exist_ok=True)
        note.touch()


def read_users(store: Path) -> list[Path]:
    """Return the folders of runs that may refer to the store's snapshots."""
    try:
        return [
            Path(line) for line in os.fsdecode((store / USERS).read_bytes()).split("\0") if line
        ]
    except FileNotFoundError:
        return []


def _remember_users(store: Path, folders: Sequence[Path]) -> None:
    known = read_users(store)
    new = [folder.resolve() for folder in folders if folder.resolve() not in known]
    if new:
        with (store / USERS).open("ab") as file:
            file.write(b"".join(os.fsencode(folder) + b"\0" for folder in new))


def _is_whole(snapshot: Path) -> bool:
    """Return whether a snapshot is there; a damaged one is moved out of the way."""
    try:
        os.close(os.open(snapshot / MANIFEST, os.O_RDONLY))  # a network disk looks again on open
    except FileNotFoundError:
        if snapshot.is_dir():
            move_away(snapshot)
        return False
    return True


def move_away(snapshot: Path) -> Path | None:
    """Rename a snapshot to where nobody takes it for one; None if it is gone already."""
    target = snapshot.with_name(f"{REMOVED}{snapshot.name}-{os.urandom(4).hex()}")
    try:
        snapshot.rename(target)
    except FileNotFoundError:
        return None
    return target


def _without(repository: Repository, states: dict[str, os.stat_result]) -> Repository:
    """Drop from a repository's list what is not copied: excluded folders, sockets."""
    names = [name for name in repository.untracked if repository.folder + name in states]
    return replace(repository, untracked=tuple(names))


def _leave_out(
    states: dict[str, os.stat_result], source: Path, folders: Iterable[Path]
) -> dict[str, os.stat_result]:
    prefixes = tuple(
        f"{folder.resolve().relative_to(source).as_posix()}/"
        for folder in folders
        if folder.resolve().is_relative_to(source)
    )
    if not prefixes:
        return states
    return {path: state for path, state in states.items() if not path.startswith(prefixes)}


def _guard_size(states: dict[str, os.stat_result], source: Path, rules: SnapshotRules) -> None:
    total = sum(state.st_size for state in states.values())
    if total <= min(rules.warn_mb, rules.refuse_mb) * 2**20:
        return
    worst = sorted(states, key=lambda path: -states[path].st_size)[:5]
    named = ", ".join(f"{path} ({states[path].st_size / 2**20:.0f} MB)" for path in worst)
    text = f"the code in {source} is {total / 2**20:.0f} MB; largest: {named}"
    advice = (
        "list what is no code in .gitignore (a file that git tracks: `git rm --cached` too), or "
        "raise `snapshot: {limit}_mb` in configs/defaults.yaml"
    )
    if total > rules.refuse_mb * 2**20:
        limit = advice.format(limit="refuse")
        raise SnapshotError(f"{text}; the limit is {rules.refuse_mb:g} MB: {limit}")
    logger.warning("%s; %s", text, advice.format(limit="warn"))


def _read_all(
    source: Path, states: dict[str, os.stat_result], paths: list[str]
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Hash files; keep the contents of those that fit, for the copy."""
    hashes: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    room = _KEEP_BYTES
    for path in paths:
        try:
            hashes[path], content = _read(f"{source}/{path}", states[path])
        except FileNotFoundError as error:
            raise _ChangedError(path) from error
        if content is not None and len(content) <= room:
            contents[path] = content
            room -= len(content)
    return hashes, contents


def _read(path: str | Path, state: os.stat_result) -> tuple[str, bytes | None]:
    """Return the hash of a file or link and, unless it is large, its bytes."""
    if state.st_size > _CHUNK_BYTES:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), None
    content = _read_small(path, state)
    return hashlib.sha256(content).hexdigest(), content


def _read_small(path: str | Path, state: os.stat_result) -> bytes:
    if stat.S_ISLNK(state.st_mode):
        return os.fsencode(os.readlink(path))
    handle = os.open(path, os.O_RDONLY)
    try:
        content = os.read(handle, state.st_size + 1)
        if len(content) == state.st_size:
            return content
    finally:
        os.close(handle)
    with open(path, "rb", buffering=0) as file:  # it grew, shrank, or came in parts
        return file.read()


def _store(
    source: Path, snapshot: Snapshot, tree: _Tree, manifest: bytes, previous: Path | None
) -> None:
    """Write the folder beside its place, then rename; whoever comes second keeps the first's."""
    beside = Path(
        tempfile.mkdtemp(dir=snapshot.path.parent, prefix=f"{HALF_WRITTEN}{snapshot.tree_hash}-")
    )
    try:
        linkable = _linkable(previous)
        made = {""}
        for path, digest in tree.hashes.items():
            folder = path.rpartition("/")[0]
            if folder not in made:
                os.makedirs(f"{beside}/{folder}", exist_ok=True)
                made.add(folder)
            mode = _git_mode(tree.states[path].st_mode)
            known = linkable.get(path) == (mode, digest)
            if not (known and _link(f"{previous}/{path}", f"{beside}/{path}")):
                content = tree.contents.get(path)
                _copy(f"{source}/{path}", f"{beside}/{path}", tree.states[path], digest, content)
        _write_file(f"{beside}/{MANIFEST}", [manifest], 0o444)
        # mkdtemp is for one's own eyes; code is read by whoever may read the store
        os.chmod(beside, stat.S_IMODE(snapshot.path.parent.stat().st_mode) | 0o700)
        os.rename(beside, snapshot.path)
    except OSError:
        if not snapshot.path.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _linkable(previous: Path | None) -> dict[str, tuple[str, str]]:
    if previous is None:
        return {}
    try:
        return read_manifest((previous / MANIFEST).read_bytes())
    except OSError:
        return {}  # collected since


def _link(existing: str, target: str) -> bool:
    try:
        os.link(existing, target, follow_symlinks=False)
    except OSError:
        return False  # collected since, too many links, or a file system without them
    return True


def _copy(
    source: str, target: str, state: os.stat_result, digest: str, content: bytes | None
) -> None:
    """Copy one file; `content` is what was hashed, None means read it and compare."""
    mode = 0o555 if state.st_mode & 0o100 else 0o444
    if content is None and (stat.S_ISLNK(state.st_mode) or state.st_size <= _CHUNK_BYTES):
        found, content = _read(source, state)
        if found != digest:
            raise _ChangedError(source)
    if content is None:
        with open(source, "rb", buffering=0) as file:
            _write_file(target, iter(lambda: file.read(_CHUNK_BYTES), b""), mode)
        if _read(target, state)[0] != digest:
            raise _ChangedError(source)
    elif stat.S_ISLNK(state.st_mode):
        os.symlink(os.fsdecode(content), target)
    else:
        _write_file(target, [content], mode)


def _write_file(target: str, chunks: Iterable[bytes], mode: int) -> None:
    # bare system calls: file objects take a third of the time of a first snapshot
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(handle, view) :]
    finally:
        os.close(handle)


def _walk(path: Path) -> Iterable[str]:
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(path / folder) as entries:
            for entry in entries:
                # Python leaves its caches beside the code
                if entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                    pending.append(f"{folder}{entry.name}/")
                elif entry.name != "__pycache__":
                    yield folder + entry.name


def _git_mode(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "120000"
    return "100755" if mode & 0o100 else "100644"


def _tree_hash(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:40]


def _damaged(path: Path, name: str, what: str) -> str:
    return f"snapshot {path}: {name} {what}; delete the folder and launch again from the source"
