"""The flags that all launchers share. Only argparse is imported: `--help` must cost nothing."""

import argparse
import os
import sys

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from typing import NoReturn

EXECUTORS = ("auto", "slurm", "local", "debug")
RESUME_VIA = ("auto", "successor", "requeue")

_EPILOG = """\
key=value changes a value of the recipe: optim.lr=3e-5, model.depth=4. Flags that are left out come
from configs/defaults.yaml and the cluster's profile in configs/clusters/. The same command twice
is one run: it is followed, resumed or reported as done. A preempted or timed out run saves and
goes on by itself.
"""


class _Parser(argparse.ArgumentParser):
    """Answers a wrong flag with the closest right one."""

    def error(self, message: str) -> "NoReturn":
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Knows its width without importing shutil."""

    def __init__(self, prog: str) -> None:
        width = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(width) - 2 if width.isdecimal() else 98)


def make_parser(description: str, recipe: str) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        description: what the launcher does, with examples.
        recipe: the kind whose default recipe is taken without --config.
    """
    parser = _Parser(description=description, epilog=_EPILOG, formatter_class=_Help)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="values of the recipe to change")
    add("--config", metavar="FILE", help=f"recipe (default: recipes.{recipe} in defaults.yaml)")
    add("--name", help="of the run (default: the recipe's name)")
    group = parser.add_argument_group("resources", "default: what the cluster's profile says")
    add = group.add_argument
    add("--nodes", type=int, metavar="N", help="nodes (default: 1)")
    add("--gpus", type=int, metavar="N", help="GPUs per node")
    add("--processes", type=int, metavar="N", help="processes per node (default: one per GPU)")
    add("--cpus", type=int, metavar="N", help="CPU cores per process")
    add("--memory", metavar="SIZE", help="memory per node: 64G, 1.5T")
    add("--time", metavar="TIME", help="time limit: 90m, 48h, 2-00:00:00")
    add("--stop-lead", metavar="TIME", help="warning before the time limit (default: chosen)")
    group = parser.add_argument_group("where")
    add = group.add_argument
    add("--cluster", metavar="NAME", help="profile configs/clusters/NAME.yaml")
    add("--partition", metavar="NAME", help="Slurm partition")
    add("--account", metavar="NAME", help="Slurm account")
    add("--qos", metavar="NAME", help="Slurm quality of service")
    add("--constraint", metavar="TEXT", help="Slurm node features")
    add("--exclude", metavar="NODES", help="nodes not to use, with commas")
    add("--resume-via", choices=RESUME_VIA, help="how a stopped job goes on (default: auto)")
    add("--executor", choices=EXECUTORS, help="auto: Slurm where one answers, else this machine")
    group = parser.add_argument_group("many runs", "each a run of its own, queued as one job array")
    add = group.add_argument
    add("--sweep", action="append", metavar="KEY=VALUES", help="optim.lr=1e-5,3e-5 or seed=0..4")
    add("--sweep-file", metavar="FILE", help="yaml with grid:, list: or random: (jobs/sweep.py)")
    add("--parallel", type=int, metavar="N", help="how many may run at a time")
    group = parser.add_argument_group("what to do")
    add = group.add_argument
    add("--include", action="append", metavar="PATTERN", help="ignored files that the job needs")
    add("--dry-run", action="store_true", help="print the sbatch script and command, run nothing")
    add("--forecast", action="store_true", help="train a minute, print what the whole run costs")
    add("--follow", "--wait", action="store_true", help="stay and show progress until the run ends")
    return parser


def parse_flags(parser: argparse.ArgumentParser, argv: list[str]) -> dict[str, object]:
    """Return the flags by name; ends the program with 2 on a wrong one.

    Recipe values may stand anywhere between the flags.
    """
    known, rest = parser.parse_known_args(argv)
    flags = vars(known)
    wrong = [word for word in rest if word.startswith("-")]
    if wrong:
        parser.error(_unknown_flag(parser, wrong[0]))
    flags["overrides"] += rest
    for word in flags["overrides"]:
        if "=" not in word[1:]:
            parser.error(f"not key=value: {word!r}; see --help")
    return flags


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Add the flag of what is done in parts."""
    text = "parts that are worked on side by side, as one job array (default: 1)"
    parser.add_argument("--shards", type=int, metavar="N", default=1, help=text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the weights to start from."""
    text = "weights of the recipe's model: a run's folder, an export of ours, or a released file"
    parser.add_argument("--checkpoint", metavar="FILE", help=text)


def in_shards(flags: dict[str, object], section: str = "") -> dict[str, object]:
    """Return the flags with a sweep over the parts; `section` holds the keys shard and shards."""
    count = flags["shards"]
    assert isinstance(count, int)
    if count < 2:
        return flags
    words = [*as_list(flags["overrides"]), f"{section}shards={count}"]
    sweep = [*as_list(flags["sweep"]), f"{section}shard=0..{count - 1}"]
    return {**flags, "overrides": words, "sweep": sweep}


def with_checkpoint(flags: dict[str, object]) -> dict[str, object]:
    """Return the flags with the weights as values of the recipe; those given in words win."""
    if not flags.get("checkpoint"):
        return flags
    # a job runs in a copy of the project: a relative path would mean another file there
    file = os.path.abspath(os.path.expanduser(str(flags["checkpoint"])))
    words = ["init.origin=auto", f"init.file={file}", *as_list(flags["overrides"])]
    return {**flags, "overrides": words}


def as_list(value: object) -> list[str]:
    """Return what a flag that may be given again holds."""
    return [str(word) for word in value] if isinstance(value, list) else []


def _unknown_flag(parser: argparse.ArgumentParser, flag: str) -> str:
    import difflib  # only a run that fails pays for it

    name = flag.partition("=")[0]
    known = [each for action in parser._actions for each in action.option_strings]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown flag {name}" + (f"; did you mean {close[0]}?" if close else "; see --help")
