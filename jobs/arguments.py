"""What the command lines of `python -m jobs` share. Only argparse: `--help` must cost nothing."""

from __future__ import annotations

import argparse
import os

_RUN = "a run: its folder, its name or the beginning of it, a job id, or last (also -)"
_EPILOG = """\
example: {example}
exit code: 0 done as asked; 1 the run ended badly, or Slurm does not answer; 2 refused: the message
says what to change.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Knows its width without importing shutil."""

    def __init__(self, prog: str) -> None:
        width = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(width) - 2 if width.isdecimal() else 98)


def make_parser(name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Return the parser of one command, without its own arguments."""
    return argparse.ArgumentParser(
        prog=f"python -m jobs {name}",
        description=summary,
        epilog=_EPILOG.format(example=example),
        formatter_class=_Help,
    )


def add_run(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add RUN, which `jobs.find_run` reads."""
    parser.add_argument("run", metavar="RUN", nargs=nargs, help=_RUN)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the commands on runs have."""
    add = parser.add_argument
    add("--runs", metavar="DIR", help="folder of all runs (default: that of configs/defaults.yaml)")
    add("--json", action="store_true", help="print json, with all that is known")
