"""Taking a snapshot of a 1,700-file tree against `git archive | tar`."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from jobs.snapshot import MANIFEST, take_snapshot
from tests.bench.ratio import report_ratio

FILES, MEAN_BYTES = 1700, 9500


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    draw = random.Random(0)
    for number in range(FILES):
        path = root / f"package{number % 40}/part{number % 7}/file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(draw.randrange(200, 2 * MEAN_BYTES)))
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b.c commit -qm x"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    return root


def fresh_folders(root: Path) -> Callable[[], Path]:
    """Return a source of new folders: ext4 is slow to reuse the inodes of deleted ones."""
    numbers = itertools.count()
    return lambda: root / str(next(numbers))


def archive(tree: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    command = 'git archive HEAD | tar -x -C "$0"'
    subprocess.run(["bash", "-c", command, str(folder)], cwd=tree, check=True)
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_first_snapshot_of_a_tree(
    tree: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    new = fresh_folders(tmp_path)
    snapshot = take_snapshot(tree, new())
    assert read_all(snapshot.path) == read_all(archive(tree, new()))
    benchmark.pedantic(lambda: take_snapshot(tree, new()), rounds=1)
    report_ratio(
        f"first snapshot of {FILES} files against git archive | tar",
        lambda: take_snapshot(tree, new()),
        lambda: archive(tree, new()),
    )


def test_the_snapshot_of_an_unchanged_tree(
    tree: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    new = fresh_folders(tmp_path)
    store = new()
    first = take_snapshot(tree, store)
    assert take_snapshot(tree, store) == first
    benchmark.pedantic(lambda: take_snapshot(tree, store), rounds=1)
    report_ratio(
        f"unchanged snapshot of {FILES} files against git archive | tar",
        lambda: take_snapshot(tree, store),
        lambda: archive(tree, new()),
    )
