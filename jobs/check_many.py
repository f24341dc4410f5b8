"""Judge many configurations in one process: `python -m jobs.check_many MODULE < argument lists`.

Starting the program for each would cost its imports every time. Ends with the first one's exit code
that is not 0, its arguments ahead of its words.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys


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
