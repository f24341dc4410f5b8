"""Have a program judge many configurations in one process of its own.

Starting the program for each would cost its imports every time. `judge` starts
`python -m jobs.check_many MODULE < argument lists`, which ends with the first one's exit code that
is not 0, its arguments ahead of its words.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.environment import HOME, code_first
from jobs.errors import ConfigError


def judge(module: str, lines: Sequence[Sequence[str]], snapshot: Path, home: Path) -> None:
    """Have `python -m module` judge each line's arguments.

    Args:
        module: the program.
        lines: argument lists.
        snapshot: the code to judge with.
        home: the project's root, where relative data paths start.

    Raises:
        ConfigError: with the arguments and the program's words about the first wrong one.
    """
    result = subprocess.run(
        [sys.executable, "-m", "jobs.check_many", module],
        input=json.dumps([list(words) for words in lines]),
        cwd=snapshot,
        env={**os.environ, **code_first(str(snapshot)), HOME: str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise ConfigError((result.stderr.strip() or result.stdout.strip()).strip())


def check(module: str, words: list[str]) -> tuple[int, str]:
    """Run `python -m module words` in this process; returns exit code and error output."""
    sys.argv = [module, *words]
    told = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as left:
            code = left.code
    if isinstance(code, str):  # sys.exit("words")
        return 1, code
    return (code if isinstance(code, int) else 0), told.getvalue().strip()


def main() -> int:
    """Read the lists and check them in turn."""
    module = sys.argv[1]
    for words in json.load(sys.stdin):
        code, told = check(module, words)
        if code != 0:
            print(f"{' '.join(words)}: {told}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
