from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
LAUNCHERS = sorted(
    path.name
    for path in (HOME / "launchers").glob("*.py")
    if path.name not in ("__init__.py", "arguments.py", "collect_results.py")
)

# Fails the import of whatever a machine for submitting may lack, and of what is slow.
DENY = """
import sys
class Deny:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "submitit", "yaml"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Deny())
"""


def run(*words: str, home: Path = HOME, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(home / "launchers" / words[0]), *words[1:]]
    return subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_teaches_without_torch_numpy_and_submitit(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DENY)
    shown = run(launcher, "--help", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert f"python launchers/{launcher}" in shown.stdout  # an example
    assert "key=value" in shown.stdout
    assert "configs/defaults.yaml" in shown.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher_stays_thin(launcher: str) -> None:
    assert len((HOME / "launchers" / launcher).read_text().splitlines()) < 60


def test_wrong_flag_ends_with_2() -> None:
    shown = run("pretrain.py", "--nodse", "4")
    assert shown.returncode == 2
    assert "did you mean --nodes?" in shown.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with this one's launchers and a trainer without torch."""
    home = tmp_path / "project"
    for folder in ("jobs", "launchers"):
        shutil.copytree(HOME / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    egovl = home / "egovl"
    egovl.mkdir()
    (egovl / "__init__.py").write_text("")
    (egovl / "__main__.py").write_text(EGOVL)
    clusters = home / "configs" / "clusters"
    clusters.mkdir(parents=True)
    (clusters / "local.yaml").write_text("executor: local\nprocesses_per_node: 1\n")
    (clusters / "big.yaml").write_text("executor: slurm\npartition: a100\ngpus_per_node: 8\n")
    (home / "configs" / "recipe.yaml").write_text("steps: 3\n")
    (home / "configs" / "defaults.yaml").write_text(
        "cluster: auto\nruns: runs\nrecipes:\n  pretrain: configs/recipe.yaml\n"
    )
    return home


# A program that checks its overrides, trains in no time, and keeps the run folder's contract.
EGOVL = """
import json, os, sys
from pathlib import Path
command, _, config, *overrides = [word for word in sys.argv[1:] if word != "--no-files"]
assert Path(config).read_text() == "steps: 3\\n"
if wrong := [each for each in overrides if not each.startswith("steps=")]:
    sys.exit(f"unknown key {wrong[0]}; did you mean steps?")
if command == "train":
    run, attempt = Path(os.environ["EGOVL_RUN_DIR"]), os.environ["EGOVL_ATTEMPT"]
    line = {"kind": "train", "step": 3, "attempt": int(attempt), "loss": 0.25}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
    exits = run / "attempts" / attempt / "exit"
    exits.mkdir(parents=True)
    words = {"state": "done", "rank": 0, "world_size": 1, "step": 3, "saved_step": None}
    (exits / "0.json").write_text(json.dumps(words))
"""


def without_slurm(tmp_path: Path) -> dict[str, str]:
    """A PATH with Python alone."""
    return {"PATH": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_same_command_runs_follows_and_then_reports_done(project: Path, tmp_path: Path) -> None:
    words = ("pretrain.py", "--nodes", "4", "--partition", "a100", "--follow", "steps=3")
    first = run(*words, home=project, **without_slurm(tmp_path))
    assert first.returncode == 0, first.stderr + first.stdout
    assert "no Slurm answers here" in first.stderr
    assert "4 nodes asked for" in first.stderr
    assert "step 3" in first.stdout
    assert "0.25" in first.stdout
    second = run(*words, home=project, **without_slurm(tmp_path))
    assert second.returncode == 0
    assert "is done" in second.stdout
    assert len(list((project / "runs" / "pretrain").iterdir())) == 1


def test_wrong_recipe_value_ends_with_2_and_the_programs_words(
    project: Path, tmp_path: Path
) -> None:
    shown = run("pretrain.py", "stesp=4", home=project, **without_slurm(tmp_path))
    assert shown.returncode == 2
    assert "unknown key stesp=4; did you mean steps?" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (project / "runs" / "pretrain").exists()


def test_dry_run_prints_the_script_on_a_machine_without_slurm(
    project: Path, tmp_path: Path
) -> None:
    words = ("--dry-run", "--executor", "slurm", "--cluster", "big", "--nodes", "4")
    shown = run("pretrain.py", *words, home=project, **without_slurm(tmp_path))
    assert shown.returncode == 0, shown.stderr
    for text in ("#SBATCH --partition=a100", "#SBATCH --gpus-per-node=8", "#SBATCH --nodes=4"):
        assert text in shown.stdout
    assert "--nproc-per-node=8" in shown.stdout
    assert "egovl train --config configs/recipe.yaml" in shown.stdout
    assert not (project / "runs" / "pretrain").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "configs/none.yaml"), "no recipe configs/none.yaml; beside it:"),
        (("--cluster", "bgi"), "did you mean 'big'?"),
        (("--time", "soon"), "not a time above zero: 'soon'"),
        (("--name", "a/b"), "it names a folder"),
        (("--config", sys.executable), "outside of"),
    ],
)
def test_wrong_value_ends_with_2_and_what_to_write_instead(
    project: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    shown = run("pretrain.py", *words, home=project, **without_slurm(tmp_path))
    assert shown.returncode == 2
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


SLOW_MODULES = {"dataclasses", "inspect", "json", "logging", "pathlib", "shutil", "subprocess"}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_imports_little_more_than_argparse(launcher: str) -> None:
    """The time itself is measured elsewhere, quietly; this is what makes it."""
    command = [sys.executable, "-X", "importtime", str(HOME / "launchers" / launcher), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[1].strip() for line in shown.stderr.splitlines()}
    after_argparse = {
        name.split(".")[0] for name in imported if name.startswith(("launchers", "jobs"))
    }
    assert "argparse" in imported
    assert after_argparse == {"launchers"}
    site = {line.rsplit("|", 1)[1].strip() for line in site_imports()}
    assert not (imported - site) & SLOW_MODULES


def site_imports() -> list[str]:
    """What the interpreter imports anyway, with the hooks of this environment."""
    command = [sys.executable, "-X", "importtime", "-c", ""]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()


# A program whose evaluations have a result at once.
EVALUATED = """
import json, os, sys
from pathlib import Path
command, *words = [word for word in sys.argv[1:] if word != "--no-files"]
only = words[words.index("--only") + 1]
if command == "eval":
    run, attempt = Path(os.environ["EGOVL_RUN_DIR"]), os.environ["EGOVL_ATTEMPT"]
    metrics = {f"{only}/top1": 40.0 + len(only)}
    result = {"schema": 1, "step": 0, "metrics": metrics, "inputs": {"init.file": "ab12"}}
    (run / "result.json").write_text(json.dumps(result))
    exits = run / "attempts" / attempt / "exit"
    exits.mkdir(parents=True)
    words = {"state": "done", "rank": 0, "world_size": 1, "step": 0, "saved_step": None}
    (exits / "0.json").write_text(json.dumps(words))
"""
SUITE = """
benchmarks:
  - {name: one, config: configs/recipe.yaml}
  - {name: three, config: configs/recipe.yaml}
columns:
  - {title: Three, metric: three/top1}
  - {title: One, metric: one/top1}
published:
  - {name: paper, values: [50.5, 60.5]}
"""


@pytest.mark.slow
def test_a_suite_ends_in_one_table_like_the_papers(project: Path, tmp_path: Path) -> None:
    (project / "egovl" / "__main__.py").write_text(EVALUATED)
    (project / "configs" / "suites").mkdir()
    (project / "configs" / "suites" / "small.yaml").write_text(SUITE)
    words = ("evaluate.py", "--suite", "small", "--checkpoint", str(tmp_path / "best.pt"))
    done = run(*words, "--follow", home=project, **without_slurm(tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    for shown in (done, run(*words, "--table", home=project, **without_slurm(tmp_path))):
        lines = [line.split() for line in shown.stdout.splitlines()]
        assert ["best.pt", "45.0", "43.0"] in lines
        assert ["paper", "50.5", "60.5"] in lines
    [table] = (project / "runs" / ".tables").glob("small-*.md")
    assert "- one: init.file ab12" in table.read_text()
    other = ("evaluate.py", "--suite", "small", "--checkpoint", "other.pt", "--table")
    nothing = run(*other, home=project, **without_slurm(tmp_path))
    assert nothing.returncode == 1 and "no result yet of one, three" in nothing.stderr
