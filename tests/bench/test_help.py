"""A launcher's --help against a script that only builds a parser with as many flags."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from launchers.arguments import make_parser
from tests.architecture.source import ROOT
from tests.bench.ratio import report_ratio


def bare_script(path: Path) -> Path:
    """The same flags with the same words, and nothing else."""
    lines = ["import argparse", "parser = argparse.ArgumentParser()"]
    for action in make_parser("x", recipe="pretrain")._actions:
        if action.dest == "help":
            continue
        words = ", ".join(map(repr, action.option_strings or [action.dest]))
        is_switch = isinstance(action, argparse._StoreTrueAction)
        extra = ', action="store_true"' if is_switch else f", metavar={str(action.metavar)!r}"
        text = str(action.help).replace("%", "%%")
        lines.append(f"parser.add_argument({words}{extra}, help={text!r})")
    path.write_text("\n".join([*lines, "parser.parse_args()", ""]))
    return path


def test_help_of_the_launcher(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    bare = bare_script(tmp_path / "bare.py")

    def show(script: Path) -> str:
        words = [sys.executable, str(script), "--help"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    launcher = ROOT / "launchers/pretrain.py"
    assert "--partition" in show(bare)
    assert "--partition" in show(launcher)
    benchmark.pedantic(lambda: show(launcher), rounds=1)
    result = report_ratio(
        "pretrain.py --help against a bare argparse script",
        lambda: show(launcher),
        lambda: show(bare),
        rounds=25,
    )
    print(f"that is {1 / result.ratio:.2f} times the bare script (aim: at most 1.5)")
