"""`snapshot:` of `configs/defaults.yaml`: what a code copy holds, and how large it may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jobs.errors import ConfigError
from jobs.yaml_file import as_mapping, as_text, as_words, refuse_unknown


@dataclass(frozen=True)
class SnapshotRules:
    """What a snapshot holds beside what git would, and how large it may be.

    Attributes:
        include: glob patterns of ignored files that jobs need, such as `build/*.so`.
        warn_mb: above this size the largest files are named.
        refuse_mb: above this size none is taken.
    """

    include: tuple[str, ...] = ()
    warn_mb: float = 50
    refuse_mb: float = 500


def read_snapshot_rules(values: Any, where: str) -> SnapshotRules:
    """Read the `snapshot:` section.

    Raises:
        ConfigError: if a key is unknown or a size is none; `where` leads the message.
    """
    given = as_mapping(values, where)
    refuse_unknown(given, ("include", "warn_mb", "refuse_mb"), where)
    default = SnapshotRules()
    return SnapshotRules(
        include=as_words(given.get("include")),
        warn_mb=_megabytes(given.get("warn_mb"), f"{where}: warn_mb", default.warn_mb),
        refuse_mb=_megabytes(given.get("refuse_mb"), f"{where}: refuse_mb", default.refuse_mb),
    )


def with_patterns(rules: SnapshotRules, include: Iterable[str]) -> SnapshotRules:
    """Return the rules with more patterns to include."""
    return replace(rules, include=(*rules.include, *include))


def _megabytes(value: Any, where: str, default: float) -> float:
    text = as_text(value)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{where}: a number of megabytes above 0, got {text!r}")
    return number
