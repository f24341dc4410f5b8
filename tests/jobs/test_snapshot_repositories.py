"""Snapshots and patches of real git repositories in every state that users leave them in.

Each story says what the copy has to hold, and that the patch on a fresh checkout gives the same.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.file_list import scan_files
from jobs.provenance import Provenance
from jobs.snapshot import Snapshot, read_manifest, take_snapshot, verify_snapshot
from jobs.snapshot_rules import SnapshotRules
from tests.jobs.test_snapshot import git, make_files, write

BINARY = bytes(range(256)) * 40
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def commit(root: Path) -> Path:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_files(tmp_path / "tree")
    (root / "image.bin").write_bytes(BINARY)
    return commit(root)


def describe(root: Path, names: list[str] | None = None) -> dict[str, tuple[str, bytes]]:
    """Path -> kind and bytes of a tree's files, read without any of the code under test."""
    found: dict[str, tuple[str, bytes]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders[:] = [name for name in folders if name not in (b".git", b"__pycache__")]
        for name in [*files, *folders]:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            if stat.S_ISLNK(state.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISREG(state.st_mode) and name not in (b".git", b".snapshot"):
                with open(path, "rb") as file:
                    found[key] = ("x" if state.st_mode & 0o100 else "-", file.read())
    return found if names is None else {name: found[name] for name in names}


def take(root: Path, *include: str) -> Snapshot:
    snapshot = take_snapshot(root, root.parent / "store", rules=SnapshotRules(include=include))
    verify_snapshot(snapshot.path)
    manifest = read_manifest((snapshot.path / ".snapshot").read_bytes())
    assert manifest.keys() == describe(snapshot.path).keys()
    return snapshot


def restore(root: Path, snapshot: Snapshot, *, name: str = "restored") -> Path:
    """A fresh checkout of the commit with the patch applied, as provenance promises."""
    folder = root.parent / f"{name}-provenance"
    Provenance(root, snapshot.repositories).write(folder, ["launch"])
    facts = json.loads((folder / "provenance.json").read_text())
    target = root.parent / name
    git(root.parent, "clone", "-q", "--no-local", str(root), str(target))
    git(target, "checkout", "-q", facts["git"]["sha"])
    git(target, "submodule", "update", "-q", "--init", "--recursive")
    if (folder / "diff.patch").read_bytes():
        git(target, "apply", "--whitespace=nowarn", str(folder / "diff.patch"))
    return target


def assert_same(root: Path) -> Snapshot:
    """The copy is the work tree (without what is ignored), and the patch restores it."""
    snapshot = take(root)
    copied = describe(snapshot.path)
    assert copied == describe(root, list(copied))
    assert describe(restore(root, snapshot)) == copied
    return snapshot


def test_edited_deleted_added_and_executable_files(tree: Path) -> None:
    write(tree / "pkg/edited.py", "after\n\nno newline at the end")
    (tree / "pkg/gone.py").unlink()
    write(tree / "pkg/new.py", "new\n")
    write(tree / "noise.log")
    write(tree / "kept.py", "staged\n")
    git(tree, "add", "kept.py")
    write(tree / "kept.py", "staged and edited\n")
    (tree / "run.sh").chmod(0o644)
    write(tree / "tool.sh", "#!/bin/sh\n").chmod(0o755)
    (tree / "link").unlink()
    (tree / "link").symlink_to("kept.py")
    (tree / "new_link").symlink_to("pkg")
    snapshot = assert_same(tree)
    names = describe(snapshot.path).keys()
    assert {"pkg/new.py", "tool.sh", "new_link"} <= names
    assert not {"pkg/gone.py", "noise.log"} & names


def test_binary_and_empty_files(tree: Path) -> None:
    (tree / "image.bin").write_bytes(BINARY[::-1])
    (tree / "new.bin").write_bytes(b"\0\r\n\xff" * 900)
    write(tree / "empty.py", "")
    write(tree / "pkg/edited.py", "")
    assert_same(tree)


def test_names_with_blanks_newlines_unicode_and_other_bytes(tree: Path) -> None:
    for name in ("a b.py", "tab\tand\nline.py", "\u00e9t\u00e9.py", "-rf", '"q".py', "*.py", ":x"):
        write(tree / name, "tracked\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "odd")
    for name in ("a b.py", "tab\tand\nline.py", "\u00e9t\u00e9.py", "*.py"):
        write(tree / name, "edited\n")
    for name in ("n b.py", "n\tand\nline.py", "\u00fc.py", "--n", ":(glob)n", "[n]"):
        write(tree / name, "new\n")
    with open(os.fsencode(tree) + b"/raw\xff.py", "wb") as file:
        file.write(b"raw\n")
    assert "n\tand\nline.py" in describe(assert_same(tree).path)


def test_a_file_renamed_in_case_only(tree: Path) -> None:
    (tree / "kept.py").rename(tree / "Kept.py")
    names = describe(assert_same(tree).path).keys()
    assert "Kept.py" in names and "kept.py" not in names


def test_a_file_that_became_a_folder_and_the_other_way_round(tree: Path) -> None:
    (tree / "kept.py").unlink()
    write(tree / "kept.py/inner.py", "x\n")
    shutil.rmtree(tree / "pkg")
    write(tree / "pkg", "a file now\n")
    assert "kept.py/inner.py" in describe(assert_same(tree).path)


def test_the_work_trees_bytes_count_not_those_of_filters(tree: Path) -> None:
    git(tree, "config", "filter.shout.clean", "tr a-z A-Z")
    git(tree, "config", "filter.shout.smudge", "tr A-Z a-z")
    git(tree, "config", "filter.lfs.clean", "printf 'oid %%s' x")
    git(tree, "config", "filter.lfs.required", "true")
    attributes = "*.txt filter=shout\n*.py text eol=lf\n*.bat text eol=crlf\n*.pt filter=lfs\n"
    write(tree / ".gitattributes", attributes)
    write(tree / "quiet.txt", "work tree\n")
    (tree / "dos.py").write_bytes(b"a\r\nb\r\n")
    (tree / "dos.bat").write_bytes(b"a\nb\r\n")
    (tree / "weights.pt").write_bytes(POINTER)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "filtered")
    assert git(tree, "show", "HEAD:quiet.txt") == "WORK TREE\n"
    snapshot = take(tree)
    copied = describe(snapshot.path)
    assert copied["quiet.txt"][1] == b"work tree\n"
    assert copied["dos.py"][1] == b"a\r\nb\r\n"
    assert copied["dos.bat"][1] == b"a\nb\r\n"
    assert copied["weights.pt"][1] == POINTER


def test_an_lfs_pointer_and_an_lfs_file_that_was_fetched(tree: Path) -> None:
    """Without git-lfs a pointer is what lies there; with it, the content: each is taken as is."""
    (tree / "weights.pt").write_bytes(POINTER)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "pointer")
    write(tree / ".git/info/attributes", "*.pt filter=lfs diff=lfs merge=lfs -text\n")
    assert describe(assert_same(tree).path)["weights.pt"][1] == POINTER
    (tree / "weights.pt").write_bytes(BINARY)
    assert describe(take(tree).path)["weights.pt"][1] == BINARY


def library(tree: Path) -> Path:
    inner = commit(make_files(tree.parent / "inner"))
    outer = make_files(tree.parent / "library")
    commit(outer)
    git(outer, "submodule", "add", "-q", str(inner), "deep/inner")
    git(outer, "commit", "-qam", "with inner")
    return outer


def test_submodules_with_edited_deleted_and_new_files(tree: Path) -> None:
    git(tree, "submodule", "add", "-q", str(library(tree)), "third/library")
    git(tree, "submodule", "update", "-q", "--init", "--recursive")
    git(tree, "commit", "-qam", "with library")
    module = tree / "third/library"
    write(module / "kept.py", "patched\n")
    (module / "pkg/gone.py").unlink()
    write(module / "pkg/new.py", "new\n")
    write(module / "noise.log")
    write(module / "deep/inner/kept.py", "patched deeper\n")
    (module / "deep/inner/new.bin").write_bytes(BINARY)
    write(tree / "kept.py", "outside too\n")
    names = describe(assert_same(tree).path).keys()
    assert {"third/library/pkg/new.py", "third/library/deep/inner/new.bin"} <= names
    assert not {"third/library/pkg/gone.py", "third/library/noise.log"} & names
    folders = [each.folder for each in scan_files(tree).repositories]
    assert folders == ["", "third/library/", "third/library/deep/inner/"]


def test_a_submodule_that_is_ahead_of_the_recorded_commit(tree: Path) -> None:
    git(tree, "submodule", "add", "-q", str(library(tree)), "third/library")
    git(tree, "submodule", "update", "-q", "--init", "--recursive")
    git(tree, "commit", "-qam", "with library")
    module = tree / "third/library"
    write(module / "kept.py", "committed inside\n")
    git(module, "commit", "-qam", "ahead")
    write(module / "kept.py", "committed inside, then edited\n")
    snapshot = assert_same(tree)
    facts = json.loads((tree.parent / "restored-provenance/provenance.json").read_text())
    inside = facts["repositories"]["third/library"]
    assert inside["sha"] == git(module, "rev-parse", "HEAD").strip()
    assert inside["base"] == git(tree, "rev-parse", "HEAD:third/library").strip() != inside["sha"]
    assert describe(snapshot.path)["third/library/kept.py"][1].endswith(b"then edited\n")


def test_a_second_work_tree_as_source_and_one_inside_that_is_left_out(tree: Path) -> None:
    git(tree, "worktree", "add", "-q", "-b", "other", str(tree.parent / "second"))
    git(tree, "worktree", "add", "-q", "-b", "third", str(tree / "inside"))
    write(tree.parent / "second/kept.py", "in the second\n")
    write(tree.parent / "second/new.py", "new\n")
    names = describe(take(tree).path).keys()
    assert not [name for name in names if name.startswith("inside")]
    second = assert_same(tree.parent / "second")
    assert describe(second.path)["kept.py"][1] == b"in the second\n"


def test_the_middle_of_a_merge(tree: Path) -> None:
    git(tree, "checkout", "-qb", "side")
    write(tree / "kept.py", "side\n")
    write(tree / "clean.py", "merged without conflict\n")
    (tree / "pkg/edited.py").unlink()
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "side")
    git(tree, "checkout", "-q", "main")
    write(tree / "kept.py", "main\n")
    write(tree / "pkg/edited.py", "main too\n")
    git(tree, "commit", "-qam", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git(tree, "merge", "side")
    snapshot = assert_same(tree)
    assert b"<<<<<<<" in describe(snapshot.path)["kept.py"][1]
    write(tree / "untracked.py", "beside the conflict\n")
    snapshot = take(tree)
    assert describe(restore(tree, snapshot, name="again")) == describe(snapshot.path)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_edits_that_git_was_told_not_to_look_at(tree: Path, flag: str) -> None:
    git(tree, "update-index", flag, "kept.py")
    write(tree / "kept.py", "edited in secret\n")
    assert git(tree, "status", "--porcelain") == ""
    assert describe(assert_same(tree).path)["kept.py"][1] == b"edited in secret\n"


def test_a_sparse_checkout_has_what_is_checked_out(tree: Path) -> None:
    git(tree, "sparse-checkout", "set", "--cone", "pkg")
    write(tree / "run.sh", "brought back by hand\n")
    write(tree / "pkg/edited.py", "after\n")
    git(tree, "sparse-checkout", "reapply")
    shutil.copy(tree / "pkg/gone.py", tree / "pkg/new.py")
    snapshot = take(tree)
    copied = describe(snapshot.path)
    assert copied == describe(tree, list(copied))
    assert copied["pkg/edited.py"][1] == b"after\n"
    assert set(copied) == set(describe(tree))
    write(tree / "pkg/unseen.txt")
    git(tree, "sparse-checkout", "set", "--no-cone", "/pkg/*.py")
    assert "pkg/edited.py" in describe(take(tree).path)


def test_a_patch_with_users_own_diff_settings_still_applies(tree: Path) -> None:
    for key, value in {
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "color.ui": "always",
        "core.quotePath": "true",
        "diff.external": "false",
        "diff.renames": "copies",
        "status.showUntrackedFiles": "no",
        "core.untrackedCache": "true",
        "core.splitIndex": "true",
        "index.version": "4",
    }.items():
        git(tree, "config", key, value)
    git(tree, "update-index", "--split-index")
    write(tree / "pkg/edited.py", "after\n")
    write(tree / "\u00fc.py", "new\n")
    (tree / "kept.py").rename(tree / "moved.py")
    assert_same(tree)


def test_a_folder_of_a_repository_has_its_own_patch(tree: Path) -> None:
    write(tree / "pkg/edited.py", "after\n")
    write(tree / "pkg/new.py", "new\n")
    write(tree / "kept.py", "outside of the folder\n")
    snapshot = take(tree / "pkg")
    folder = tree.parent / "p"
    Provenance(tree / "pkg", snapshot.repositories).write(folder, [])
    patch = (folder / "diff.patch").read_text()
    assert "b/edited.py" in patch and "b/new.py" in patch and "kept.py" not in patch


def test_large_untracked_files_are_named_and_not_in_the_patch(tree: Path) -> None:
    (tree / "large.bin").write_bytes(b"l" * (21 * 2**20))
    write(tree / "small.py", "small\n")
    snapshot = take(tree)
    folder = tree.parent / "p"
    Provenance(tree, snapshot.repositories).write(folder, [])
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["patch_without"] == ["large.bin"]
    assert "small.py" in (folder / "diff.patch").read_text()
    assert (folder / "untracked.txt").read_text().split() == ["large.bin", "small.py"]


def test_provenance_leaves_the_repository_as_it_was(tree: Path) -> None:
    write(tree / "pkg/edited.py", "after\n")
    write(tree / "new.py", "new\n")
    git(tree, "update-index", "--assume-unchanged", "kept.py")
    snapshot = take(tree)

    def state() -> dict[str, bytes]:
        files = (path for path in (tree / ".git").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = state()
    Provenance(tree, snapshot.repositories).write(tree.parent / "p", [])
    assert state() == before


def test_included_build_products_are_in_the_copy_and_in_the_patch(tree: Path) -> None:
    write(tree / ".gitignore", "*.log\n/data/\n/build/\n*.so\n")
    write(tree / "build/lib/deep/table.txt", "built\n")
    write(tree / "build/lib/__pycache__/x.pyc")
    write(tree / "build/other.txt", "not asked for\n")
    (tree / "pkg/fast.so").write_bytes(BINARY)
    assert "pkg/fast.so" not in describe(take(tree).path)
    snapshot = take(tree, "build/lib", "**/*.so")
    names = describe(snapshot.path).keys()
    assert {"build/lib/deep/table.txt", "pkg/fast.so"} <= names
    assert not [name for name in names if "pycache" in name or name == "build/other.txt"]
    restored = restore(tree, snapshot)
    assert describe(restored) == describe(snapshot.path)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("build/*.so", "matches no file"),
        ("/etc/hosts", "inside of"),
        ("../other", "inside of"),
        ("outside/secret.py", "matches no file"),
        (".git/config", "matches no file"),
    ],
)
def test_a_pattern_that_includes_nothing_is_refused(tree: Path, pattern: str, words: str) -> None:
    from jobs.errors import SnapshotError

    write(tree.parent / "elsewhere/secret.py")
    (tree / "outside").symlink_to(tree.parent / "elsewhere")
    with pytest.raises(SnapshotError, match=words) as caught:
        take(tree, pattern)
    assert pattern in str(caught.value)


def test_links_are_kept_and_those_that_jobs_cannot_follow_are_named(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tree / "up").symlink_to("../../data")
    (tree / "here").symlink_to(tree / "pkg")
    (tree / "fine").symlink_to("/etc")
    (tree / "pkg/sideways").symlink_to("../kept.py")
    snapshot = take(tree)
    for name in ("up", "here", "fine", "pkg/sideways"):
        assert os.readlink(snapshot.path / name) == os.readlink(tree / name)
    assert "up -> ../../data (leaves the tree" in caplog.text
    assert "make it relative" in caplog.text
    assert "dangling -> /nowhere (not there)" in caplog.text
    assert "fine" not in caplog.text and "sideways" not in caplog.text


Edit = Callable[[Path], object]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(lambda root: write(root / ".git/info/exclude", "secret*\n"), id="info"),
        pytest.param(lambda root: write(root / "pkg/.gitignore", "secret*\n"), id="nested"),
        pytest.param(
            lambda root: git(root, "config", "core.excludesFile", str(root.parent / "mine")),
            id="config",
        ),
        pytest.param(lambda root: write(root.parent / "home/git/ignore", "secret*\n"), id="xdg"),
    ],
)
@pytest.mark.parametrize("has_git", [True, False])
def test_ignore_rules_hold_wherever_git_keeps_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch, rule: Edit, has_git: bool
) -> None:
    write(tree.parent / "mine", "secret*\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tree.parent / "home"))
    rule(tree)
    write(tree / "pkg/secret.txt")
    write(tree / "pkg/open.txt")
    if not has_git:
        monkeypatch.setenv("PATH", str(tree.parent / "empty"))
    names = describe(take(tree).path).keys()
    assert "pkg/open.txt" in names and "pkg/secret.txt" not in names
