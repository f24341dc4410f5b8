from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest

import jobs.snapshot
from jobs.configuration_check import CHECKED
from jobs.errors import SnapshotError
from jobs.snapshot import MANIFEST, USED, Snapshot, take_snapshot, verify_snapshot


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def contents(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if ".git" in path.relative_to(root).parts or name == MANIFEST:
            continue
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


def make_files(root: Path) -> Path:
    write(root / ".gitignore", "*.log\n/data/\n")
    write(root / "kept.py", "kept")
    write(root / "pkg/edited.py", "before")
    write(root / "pkg/gone.py", "gone")
    write(root / "run.sh", "#!/bin/sh").chmod(0o755)
    (root / "link").symlink_to("pkg/edited.py")
    (root / "dangling").symlink_to("/nowhere")
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = make_files(tmp_path / "tree")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    write(root / "pkg/edited.py", "after")
    (root / "pkg/gone.py").unlink()
    write(root / "pkg/new.py", "new")
    write(root / "noise.log")
    write(root / "data/big.bin")
    write(root / "pkg/__pycache__/new.cpython-311.pyc")
    return root


EXPECTED = {
    ".gitignore": "*.log\n/data/\n",
    "dangling": "-> /nowhere",
    "kept.py": "kept",
    "link": "-> pkg/edited.py",
    "pkg/edited.py": "after",
    "pkg/new.py": "new",
    "run.sh": "#!/bin/sh",
}


def stored(store: Path) -> list[str]:
    """Every folder of the store, half-written ones too."""
    return [
        path.name for path in store.iterdir() if path.is_dir() and path.name not in (USED, CHECKED)
    ]


def take(source: Path) -> Snapshot:
    return take_snapshot(source, source.parent / "store")


def test_snapshot_holds_tracked_modified_and_untracked_files_only(repository: Path) -> None:
    snapshot = take(repository)
    assert contents(snapshot.path) == EXPECTED
    assert snapshot.path == repository.parent / "store" / snapshot.tree_hash
    assert os.access(snapshot.path / "run.sh", os.X_OK)
    for path in snapshot.path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_mode & 0o222 == 0, f"{path} can be written"


def test_the_users_repository_is_left_as_it_was(repository: Path) -> None:
    git(repository, "add", "pkg/new.py")

    def state() -> dict[str, str]:
        files = sorted((repository / ".git").rglob("*"))
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    before = state()
    take(repository)
    assert state() == before


def test_same_content_is_the_same_snapshot_whatever_the_times(repository: Path) -> None:
    first = take(repository)
    kept = first.path.stat().st_ino
    os.utime(repository / "kept.py", (1, 1))
    assert take(repository) == first and first.path.stat().st_ino == kept
    write(repository / "kept.py", "other")
    second = take(repository)
    assert second != first
    assert contents(second.path) == {**EXPECTED, "kept.py": "other"}
    assert contents(first.path) == EXPECTED
    write(repository / "kept.py", "kept")
    assert take(repository) == first


def test_an_executable_bit_makes_another_snapshot(repository: Path) -> None:
    first = take(repository)
    (repository / "kept.py").chmod(0o755)
    second = take(repository)
    assert second != first and os.access(second.path / "kept.py", os.X_OK)
    verify_snapshot(first.path)
    verify_snapshot(second.path)


def test_quick_edits_of_equal_length_are_never_missed(repository: Path) -> None:
    """Guards the stat cache: same size, often the same clock tick."""
    for number in range(100, 160):
        write(repository / "kept.py", f"value {number}")
        snapshot = take(repository)
        assert (snapshot.path / "kept.py").read_text() == f"value {number}"


def test_an_edit_that_restores_the_modification_time_is_seen(repository: Path) -> None:
    take(repository)
    state = (repository / "kept.py").stat()
    write(repository / "kept.py", "tpek")
    os.utime(repository / "kept.py", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (take(repository).path / "kept.py").read_text() == "tpek"


def test_a_damaged_cache_only_costs_time(repository: Path) -> None:
    first = take(repository)
    for cache in first.path.parent.glob(".stat-*"):
        cache.write_text('{"schema": 1')
    assert take(repository) == first


@pytest.mark.parametrize("has_git", [True, False])
def test_a_tree_that_is_no_repository_keeps_the_same_ignore_rules(
    repository: Path, monkeypatch: pytest.MonkeyPatch, has_git: bool
) -> None:
    with_repository = take(repository)
    subprocess.run(["rm", "-rf", str(repository / ".git")], check=True)
    if not has_git:
        monkeypatch.setenv("PATH", str(repository.parent / "empty"))
    without = take_snapshot(repository, repository.parent / "other_store")
    assert without.tree_hash == with_repository.tree_hash


def test_a_repository_without_git_installed_keeps_the_same_files(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_git = take(repository)
    monkeypatch.setenv("PATH", str(repository.parent / "empty"))
    assert take_snapshot(repository, repository.parent / "other").tree_hash == with_git.tree_hash


def test_a_tree_that_the_repository_above_ignores_is_its_own(repository: Path) -> None:
    inside = make_files(repository / "data/project")
    assert set(contents(take_snapshot(inside, repository.parent / "store").path)) == {
        *(set(EXPECTED) - {"pkg/new.py"}),
        "pkg/gone.py",
    }


def test_a_folder_of_a_repository_is_taken_by_itself(repository: Path) -> None:
    snapshot = take_snapshot(repository / "pkg", repository.parent / "store")
    assert contents(snapshot.path) == {"edited.py": "after", "new.py": "new"}


def test_variables_of_a_git_hook_do_not_mislead(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take(repository)
    other = make_files(repository.parent / "elsewhere")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert take_snapshot(repository, repository.parent / "store2").tree_hash == expected.tree_hash


def test_submodules_and_repositories_inside_are_entered(repository: Path) -> None:
    library = make_files(repository.parent / "library")
    git(library, "init", "-q")
    git(library, "add", "-A")
    git(library, "commit", "-qm", "x")
    git(repository, "submodule", "add", "-q", str(library), "third/library")
    write(repository / "third/library/kept.py", "patched")
    git(repository, "clone", "-q", str(library), "cloned")
    found = contents(take(repository).path)
    assert found["third/library/kept.py"] == "patched"
    assert found["cloned/kept.py"] == "kept"
    git(repository, "submodule", "deinit", "-q", "-f", "third/library")
    assert "third/library/kept.py" not in contents(take(repository).path)


def test_lfs_pointers_and_line_endings_stay_as_in_the_work_tree(repository: Path) -> None:
    write(repository / ".gitattributes", "*.bin filter=lfs\n*.py text eol=lf\n")
    (repository / "weights.bin").write_bytes(b"version https://git-lfs\r\n")
    (repository / "dos.py").write_bytes(b"a\r\nb\r\n")
    snapshot = take(repository)
    assert (snapshot.path / "dos.py").read_bytes() == b"a\r\nb\r\n"
    assert (snapshot.path / "weights.bin").read_bytes() == b"version https://git-lfs\r\n"


def test_odd_names_survive(repository: Path) -> None:
    names = ["a b.py", "tab\tand\nline.py", "\u00e9t\u00e9.py", "-rf"]
    for name in names:
        write(repository / name, name)
    with open(os.fsencode(repository) + b"/raw\xff.py", "wb") as file:
        file.write(b"raw")
    snapshot = take(repository)
    assert all((snapshot.path / name).read_text() == name for name in names)
    assert (os.fsencode(snapshot.path) + b"/raw\xff.py").endswith(b"\xff.py")
    assert os.path.exists(os.fsencode(snapshot.path) + b"/raw\xff.py")
    verify_snapshot(snapshot.path)
    assert take(repository) == snapshot


def test_store_and_excluded_folders_inside_the_tree_are_left_out(repository: Path) -> None:
    write(repository / "runs/old/metrics.jsonl")
    first = take_snapshot(repository, repository / "snapshots", exclude=[repository / "runs"])
    assert contents(first.path) == EXPECTED
    again = take_snapshot(repository, repository / "snapshots", exclude=[repository / "runs"])
    assert again == first


def test_a_snapshot_of_a_snapshot_is_itself(repository: Path) -> None:
    snapshot = take(repository)
    assert take_snapshot(snapshot.path, snapshot.path.parent) == snapshot


def test_more_than_500_mb_is_refused_naming_the_worst_files(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, megabytes in (("huge.bin", 460), ("large.bin", 45)):
        with open(repository / name, "wb") as file:
            file.truncate(megabytes * 2**20)  # sparse: takes no room
    with pytest.raises(SnapshotError, match=r"huge.bin \(460 MB\), large.bin \(45 MB\)"):
        take(repository)
    assert stored(repository.parent / "store") == []
    (repository / "huge.bin").unlink()
    with open(repository / "large.bin", "ab") as file:
        file.truncate(51 * 2**20)
    with caplog.at_level(logging.WARNING):
        snapshot = take(repository)
    assert "large.bin (51 MB)" in caplog.text and ".gitignore" in caplog.text
    assert (snapshot.path / "large.bin").stat().st_size == 51 * 2**20
    verify_snapshot(snapshot.path)


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "mode", "list"])
def test_verification_names_the_file_that_differs(repository: Path, damage: str) -> None:
    snapshot = take(repository)
    verify_snapshot(snapshot.path)
    file = snapshot.path / "pkg/new.py"
    name = "pkg/new.py"
    if damage == "changed":
        file.chmod(0o644)
        file.write_text("nww")
    elif damage == "removed":
        file.unlink()
    elif damage == "mode":
        file.chmod(0o555)
    elif damage == "added":
        name = "pkg/torch.py"
        write(snapshot.path / name)
    else:
        name = MANIFEST
        (snapshot.path / MANIFEST).chmod(0o644)
        (snapshot.path / MANIFEST).write_bytes(b"")
    with pytest.raises(SnapshotError, match=name):
        verify_snapshot(snapshot.path)


def test_python_caches_in_a_snapshot_do_not_fail_its_verification(repository: Path) -> None:
    snapshot = take(repository)
    write(snapshot.path / "pkg/__pycache__/new.cpython-311.pyc")
    verify_snapshot(snapshot.path)


def test_a_folder_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no complete snapshot"):
        verify_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="no folder"):
        take_snapshot(tmp_path / "absent", tmp_path / "store")


def test_a_broken_repository_gives_gits_own_words(repository: Path) -> None:
    (repository / ".git/index").write_bytes(b"nonsense")
    with pytest.raises(SnapshotError, match="index file"):
        take(repository)


def test_a_full_or_closed_store_leaves_nothing_behind(repository: Path) -> None:
    store = write(repository.parent / "file")
    with pytest.raises(SnapshotError, match="cannot copy"):
        take_snapshot(repository, store / "store")


def test_an_interrupted_copy_is_never_taken_for_a_snapshot(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.snapshot, "_write_file", full_disk)
        with pytest.raises(SnapshotError, match="No space left"):
            take(repository)
    assert stored(repository.parent / "store") == []
    assert contents(take(repository).path) == EXPECTED


def test_a_file_that_changes_during_the_copy_starts_it_again(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = repository / "big.bin"
    big.write_bytes(b"a" * 3_000_000)  # large files are read twice: for the hash and for the copy
    original = jobs.snapshot._store
    edits = iter([b"b", b"c"])

    def edit_first(*arguments: object) -> None:
        for edit in edits:
            big.write_bytes(edit * 3_000_000)
            break
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs.snapshot, "_store", edit_first)
    snapshot = take(repository)
    assert (snapshot.path / "big.bin").read_bytes() == b"c" * 3_000_000
    verify_snapshot(snapshot.path)
    big.write_bytes(b"d" * 3_000_000)
    endless = (os.urandom(3_000_000) for _ in range(100))
    monkeypatch.setattr(
        jobs.snapshot, "_store", lambda *a: (big.write_bytes(next(endless)), original(*a))
    )
    with pytest.raises(SnapshotError, match=r"big.bin changes faster"):
        take(repository)


def _take_in_process(source: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    results.put(take(source).tree_hash)  # type: ignore[attr-defined]


def test_simultaneous_launches_share_one_snapshot(repository: Path) -> None:
    for number in range(200):
        write(repository / f"many/f{number}.py", str(number))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6), context.Queue()
    workers = [
        context.Process(target=_take_in_process, args=(repository, barrier, results))
        for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    hashes = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    store = repository.parent / "store"
    assert len(hashes) == 1
    assert stored(store) == list(hashes)
    verify_snapshot(store / hashes.pop())


def test_unchanged_files_share_their_disk_space_with_the_snapshot_before(repository: Path) -> None:
    first = take(repository)
    write(repository / "pkg/new.py", "newer")
    second = take(repository)
    assert (first.path / "kept.py").stat().st_ino == (second.path / "kept.py").stat().st_ino
    assert (first.path / "pkg/new.py").read_text() == "new"
    subprocess.run(["rm", "-rf", str(first.path)], check=True)
    write(repository / "pkg/new.py", "newest")
    take(repository)
    assert contents(take(repository).path) == {**EXPECTED, "pkg/new.py": "newest"}
    verify_snapshot(second.path)
