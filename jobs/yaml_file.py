"""Read a yaml of `configs/` as text values, so that `0123`, `no` and `48:00:00` stay as written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from jobs.errors import ConfigError, unknown_name

_EMPTY = ("", "~", "null", "none")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in `path`; every scalar is text, lists and mappings nest.

    Raises:
        ConfigError: if the file is missing, is not yaml, holds no mapping or a key twice.
    """
    import yaml  # a launcher's --help must not pay for it

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        # libyaml's, where PyYAML has it, takes a tenth of the time
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        node = cast(Any, yaml).compose(text, Loader=loader)
        values = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid yaml: {error}") from error
    _refuse_doubles(node, path)
    return as_mapping(values, str(path))


def is_empty(value: Any) -> bool:
    """Return whether a value means: not set."""
    return value is None or (isinstance(value, str) and value.lower() in _EMPTY)


def as_mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping, empty if not set.

    Raises:
        ConfigError: if it is something else; `where` leads the message.
    """
    if is_empty(value):
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected `key: value` lines, found {value!r}")
    return cast("dict[str, Any]", value)


def as_list(value: Any, where: str) -> list[Any]:
    """Return a list, empty if not set.

    Raises:
        ConfigError: if it is something else; `where` leads the message.
    """
    if is_empty(value):
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    return cast("list[Any]", value)


def as_text(value: Any) -> str | None:
    """Return a text, None if not set.

    Raises:
        ConfigError: if it is a list or a mapping.
    """
    if isinstance(value, dict | list):
        raise ConfigError(f"expected one value, found {value}")
    return None if is_empty(value) else str(value)


def as_words(value: Any) -> tuple[str, ...]:
    """Return the words of a list, or of a text with commas or spaces between them."""
    if is_empty(value):
        return ()
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    return tuple(str(word) for word in value)


def refuse_unknown(values: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Raise `ConfigError` with the closest name if `values` holds a key that is not known."""
    names = list(known)
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: " + unknown_name("key", key, names))


def _refuse_doubles(node: Any, path: Path) -> None:
    if node is None or node.id != "mapping":
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: key {key.value!r} is there twice")
        seen.add(key.value)
        _refuse_doubles(value, path)
