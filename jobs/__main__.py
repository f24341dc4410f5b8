"""Look at runs and steer them: `python -m jobs COMMAND`. Each command is `jobs/COMMAND_command.py`.

A command's module has `HELP` (one line), `add_arguments(parser)` and `run(arguments)`, which
returns the exit code. What it needs beyond argparse it imports in `run`: help must cost nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from jobs.arguments import make_parser

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from types import ModuleType

# Names in the order in which they are shown, each with an example that works as it stands.
COMMANDS = {
    "list": "python -m jobs list --state running,lost",
    "status": "python -m jobs status last --watch",
    "follow": "python -m jobs follow last --all-ranks",
    "stop": "python -m jobs stop tsf_base",
    "cancel": "python -m jobs cancel 123456 123457",
    "resume": "python -m jobs resume tsf_base --time 12h",
    "preempt": "python -m jobs preempt last",
    "nodes": "python -m jobs nodes",
    "gc": "python -m jobs gc --dry-run",
    "doctor": "python -m jobs doctor --write",
}

_EPILOG = """\
RUN is a run's folder, its name or the beginning of it, the id of a job that it has or had, or last
(also -) for the newest run. Every command takes --json, and has --help of its own.
exit code: 0 done as asked; 1 the run ended badly, or Slurm does not answer; 2 refused: the message
says what to change.
"""


def help_text() -> str:
    """Return what `--help` prints: every command with an example."""
    lines = ["usage: python -m jobs COMMAND [RUN] [flags]", "", "Look at runs and steer them.", ""]
    for name, example in COMMANDS.items():
        lines += [f"  {name:<9}{_module(name).HELP}", f"  {'':<9}    {example}"]
    return "\n".join([*lines, "", _EPILOG])


def _module(name: str) -> ModuleType:
    return import_module(f"jobs.{name}_command")


def main() -> int:
    """Run the command that the arguments name."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        return _refuse(name)
    module = _module(name)
    parser = make_parser(name, module.HELP, COMMANDS[name])
    module.add_arguments(parser)
    arguments = parser.parse_args(words[1:])
    from jobs.errors import JobsError

    try:
        code: int = module.run(arguments)
        sys.stdout.flush()
        return code
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _refuse(name: str) -> int:
    from jobs.errors import unknown_name  # only a typing error pays for it

    print(f"error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
