"""Every command of the README runs or parses; every path it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.strip().startswith("#")
]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs_or_parses(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        done = run("make", "-n", *words[1:])
    elif words[0] == "python" and words[1].startswith("launchers/"):
        # argparse refuses wrong flags before it prints the help
        done = run(sys.executable, *words[1:], "--help")
        for flag in [w for w in words[2:] if w.startswith("--")]:
            assert flag.partition("=")[0] in done.stdout, f"{words[1]} has no {flag}"
    elif words[:2] == ["python", "-m"] and words[2] in ("egovl", "jobs"):
        flags = [place for place, word in enumerate(words) if word.startswith("--")]
        commands = words[3 : flags[0]] if flags else words[3:]
        done = run(sys.executable, "-m", words[2], *commands, "--help")
        for flag in [w for w in words[3:] if w.startswith("--")]:
            assert flag.partition("=")[0] in done.stdout, f"{command}: no {flag}"
    elif words[0] in ("git", "cd", "torchrun", "tensorboard", "eval", "pip"):
        return
    else:
        raise AssertionError(f"no rule for {command!r}")
    assert done.returncode == 0, done.stderr
    for word in words[1:]:
        if word.startswith(("configs/", "launchers/")):
            assert (ROOT / word).exists(), word


def test_every_file_of_the_readme_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), link


def test_every_test_that_the_readme_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert len(named) >= 25
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)
