from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from jobs.file_list import walk_files

NAMES = ["a", "b", "ab", "x.log", "build", "docs", "[q]", "#h", "!n", "sp "]
PATTERNS = [
    *("*.log", "/build", "build/", "a/b", "/a/*", "**/ab", "a/**", "docs/**/x.log", "!x.log"),
    *("!/build", "?", "[ab]", "[!a]b", "[^a]b", r"\#h", r"\!n", "# comment", "", "sp\\ ", "sp "),
    *("*", "!*/", "!a", "/**/b", "a/", "**", "*.l?g", "b*", "[[]q]", "docs/*/"),
]


def git_files(root: Path) -> set[str]:
    """Return what git itself lists; `__pycache__` does not occur."""
    done = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-z", "-o", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split("\0")[:-1])


def make_tree(root: Path, draw: random.Random) -> None:
    folders = [root]
    for _ in range(8):
        folder = draw.choice(folders) / draw.choice(NAMES)
        if not folder.exists():
            folder.mkdir()
            folders.append(folder)
    for _ in range(30):
        path = draw.choice(folders) / draw.choice(NAMES)
        if not path.exists():
            path.write_text("x")
    for folder in [root, *draw.sample(folders, k=2)]:
        lines = draw.choices(PATTERNS, k=draw.randrange(1, 5))
        if not (folder / ".gitignore").is_dir():
            (folder / ".gitignore").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("seed", range(60))
def test_walking_finds_what_git_finds(tmp_path: Path, seed: int) -> None:
    make_tree(tmp_path, random.Random(seed))
    subprocess.run(["git", "init", "-q", "--template=", "."], cwd=tmp_path, check=True)
    rules = {
        str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob(".gitignore")
    }
    assert set(walk_files(tmp_path)) == git_files(tmp_path), rules
