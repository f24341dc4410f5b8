from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from jobs.provenance import (
    MASK,
    find_packages,
    mask_arguments,
    mask_environment,
    write_provenance,
)
from tests.jobs.test_snapshot import git, write


def read(folder: Path) -> dict[str, object]:
    return json.loads((folder / "provenance.json").read_text())


def make_repository(root: Path) -> Path:
    write(root / ".gitignore", "*.log\n")
    write(root / "code.py", "before\n")
    git(root, "init", "-q", "-b", "work")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")
    git(root, "remote", "add", "origin", "https://me:s3cret@example.org/a/b.git")
    return root


def test_provenance_names_commit_branch_changes_and_command(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "tree")
    write(root / "code.py", "after\n")
    write(root / "new.py")
    write(root / "noise.log")
    write_provenance(root, tmp_path / "p", ["pretrain.py", "--nodes", "4"])
    facts = read(tmp_path / "p")
    assert facts["git"] == {
        "sha": git(root, "rev-parse", "HEAD").strip(),
        "branch": "work",
        "remote": "https://example.org/a/b.git",
        "dirty": True,
    }
    assert facts["argv"] == ["pretrain.py", "--nodes", "4"]
    assert facts["slurm"] is None
    assert facts["python"] == sys.version.split()[0]
    patch = (tmp_path / "p/diff.patch").read_text()
    assert "-before" in patch and "+after" in patch
    assert (tmp_path / "p/untracked.txt").read_text() == "new.py\n"


def test_the_patch_restores_the_work_tree(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "tree")
    write(root / "code.py", "after\n")
    write_provenance(root, tmp_path / "p", [])
    git(root, "checkout", "-q", ".")
    git(root, "apply", str(tmp_path / "p/diff.patch"))
    assert (root / "code.py").read_text() == "after\n"


def test_no_secret_reaches_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_repository(tmp_path / "tree")
    secret = "hunter" + "2x"
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "wandb_api_key"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{secret}@proxy.example:3128")
    monkeypatch.setenv("PLAIN", "seen")
    argv = ["x", "--token", secret, f"--api-key={secret}", f"logger.key={secret}", "--nodes", "2"]
    write_provenance(root, tmp_path / "p", argv)
    text = "".join(path.read_text() for path in (tmp_path / "p").iterdir())
    assert secret not in text and "s3cret" not in text
    environment = json.loads((tmp_path / "p/environment.json").read_text())
    assert environment["HF_TOKEN"] == MASK and environment["PLAIN"] == "seen"
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert read(tmp_path / "p")["argv"][-2:] == ["--nodes", "2"]  # type: ignore[index]


def test_masking_keeps_what_is_no_secret() -> None:
    assert mask_arguments(["--token", "--fast", "a=b"]) == ["--token", "--fast", "a=b"]
    assert mask_environment({"PATH": "/bin", "PWD": "/x"}) == {"PATH": "/bin", "PWD": "/x"}


def test_packages_are_those_that_are_installed() -> None:
    packages = find_packages()
    for name in ("submitit", "pytest", "PyYAML"):
        assert f"{name.lower()}=={importlib.metadata.version(name)}" in packages
    names = {
        str(each.metadata["Name"]).lower().replace("_", "-").replace(".", "-")
        for each in importlib.metadata.distributions()
    }
    assert {line.split("==")[0].replace(".", "-") for line in packages} == names


@pytest.mark.parametrize("has_git", [True, False])
def test_a_tree_without_repository_or_git_still_has_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_git: bool
) -> None:
    write(tmp_path / "tree/code.py")
    if not has_git:
        monkeypatch.setenv("PATH", str(tmp_path / "none"))
    write_provenance(tmp_path / "tree", tmp_path / "p", ["x"])
    assert read(tmp_path / "p")["git"] == {"sha": "", "branch": "", "remote": "", "dirty": False}


def test_a_repository_without_commits_has_its_branch(tmp_path: Path) -> None:
    write(tmp_path / "tree/code.py")
    git(tmp_path / "tree", "init", "-q", "-b", "fresh")
    write_provenance(tmp_path / "tree", tmp_path / "p", ["x"])
    facts = read(tmp_path / "p")["git"]
    assert facts == {"sha": "", "branch": "fresh", "remote": "", "dirty": True}
