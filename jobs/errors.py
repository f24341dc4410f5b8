"""What can go wrong on the job side through no fault of the code.

Launchers catch `JobsError`, print its text without a traceback and leave with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable


class JobsError(Exception):
    """Something the user or the machine has to change; the message says what and how."""

    exit_code = 2


class SpecError(JobsError, ValueError):
    """A value that no job can have: a time without sense, more lead than time limit."""


class ConfigError(JobsError):
    """A yaml under `configs/` that is missing, broken or holds an unknown key."""


class SnapshotError(JobsError):
    """The code copy cannot be taken, is too large, or no longer has the taken content."""


class RunError(JobsError):
    """A run folder that is taken, missing or not one."""


class SubmitError(JobsError):
    """Slurm refused the job or does not answer; the message carries Slurm's own words."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the text for a name that does not exist, with the closest one that does.

    Args:
        what: the kind of thing in words, such as `key of configs/paths.yaml`.
        name: what was written.
        known: the names there are.
    """
    import difflib  # only a run that fails pays for it

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what}: {name!r}; {hint}known: {', '.join(names) or 'none'}"
