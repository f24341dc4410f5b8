"""A run's `config.yaml` as dotted keys: {"optim.lr": 3e-05, ...}, without importing yaml.

The file is what a yaml dumper writes in block style, one plain scalar a line. Runs of a sweep share
most of it, so it is cut at the top-level keys and every distinct part is parsed once. A part of any
other form is left to the yaml package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

Flat = dict[str, Any]

_PART = re.compile(r"\n(?=[^\s#-])")
_ALIAS = re.compile(r"[:-] \*\w")
_KEY = re.compile(r"([A-Za-z0-9_][\w./ -]*?):(?: (.*))?")
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("null", "~", "Null", "NULL", "")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "on"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "off"), False),
    "[]": "[]",
    "{}": "{}",
    ".nan": "nan",
    ".inf": "inf",
    "-.inf": "-inf",
}
# A plain scalar that begins with one of these, or holds ": " or " #", means something to yaml.
_SPECIAL = frozenset("\"'[]{}&*!|>%@`,?#")


class OtherYaml(Exception):
    """The text is not of the plain form that is read here."""


def split_config(text: str) -> list[str]:
    """Return the parts of a config file, one per top-level key.

    Raises:
        ValueError: if parts refer to each other, and it is no yaml or the yaml package is absent.
    """
    if _ALIAS.search(text):
        text = _without_aliases(text)
    return [part for part in _PART.split(text.strip("\n")) if part]


def flatten_part(text: str) -> Flat:
    """Return the leaves of one part by their dotted keys; lists of scalars are one leaf.

    Raises:
        ValueError: if it is no yaml, or yaml of a rarer form and the yaml package is absent.
    """
    flat: Flat = {}
    try:
        lines = [_split_line(line) for line in text.split("\n") if line.strip()]
        end = _read_mapping(lines, 0, "", flat)
        if end != len(lines):
            raise OtherYaml
    except OtherYaml:
        tree = _load_yaml(text)
        return {} if tree is None else dict(_flatten(tree, ""))
    return flat


def flatten_overrides(arguments: Iterable[str]) -> Flat:
    """Return the `key=value` words of a command line as dotted keys."""
    flat: Flat = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and not key.startswith("-"):
            flat[key] = _scalar(value, is_strict=False)
    return flat


def _split_line(line: str) -> tuple[int, str]:
    text = line.lstrip(" ")
    if text.startswith(("#", "\t", "---")):
        raise OtherYaml
    return len(line) - len(text), text.rstrip()


def _read_mapping(lines: list[tuple[int, str]], at: int, prefix: str, flat: Flat) -> int:
    """Read the keys from line `at` on that share its indent; return the line after them."""
    indent = lines[at][0]
    while at < len(lines) and lines[at][0] == indent and not lines[at][1].startswith("- "):
        match = _KEY.fullmatch(lines[at][1])
        if match is None:
            raise OtherYaml
        key, value = prefix + match[1], match[2]
        at += 1
        if value is not None:
            flat[key] = _scalar(value)
        elif at < len(lines) and lines[at][0] > indent and not lines[at][1].startswith("- "):
            at = _read_mapping(lines, at, f"{key}.", flat)
        elif at < len(lines) and lines[at][0] >= indent and lines[at][1].startswith("- "):
            at = _read_list(lines, at, key, flat)
        else:
            flat[key] = None
    if at < len(lines) and lines[at][0] > indent:
        raise OtherYaml
    return at


def _read_list(lines: list[tuple[int, str]], at: int, key: str, flat: Flat) -> int:
    indent, items = lines[at][0], list[Any]()
    while at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("- "):
        item = lines[at][1][2:]
        if item.startswith("- ") or _KEY.fullmatch(item):
            raise OtherYaml
        items.append(_scalar(item))
        at += 1
    flat[key] = _show_list(items)
    return at


def _scalar(text: str, *, is_strict: bool = True) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text):
        plain = text.replace("_", "")
        if plain.lstrip("+-").isdecimal():
            return text if plain.lstrip("+-").startswith("0") and len(plain) > 1 else int(plain)
        return float(plain)
    if text[:1] == text[-1:] == "'" and len(text) > 1 and "'" not in text[1:-1]:
        return text[1:-1]
    if is_strict and (text[0] in _SPECIAL or ": " in text or " #" in text or text[-1] == ":"):
        raise OtherYaml
    return text


def _show_list(items: Iterable[Any]) -> str:
    return f"[{', '.join('null' if item is None else str(item) for item in items)}]"


def _flatten(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in cast("Mapping[Any, Any]", value).items():
            yield from _flatten(each, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        if any(isinstance(item, list | dict) for item in items):
            for index, item in enumerate(items):
                yield from _flatten(item, f"{prefix}.{index}" if prefix else str(index))
        else:
            yield prefix, _show_list(items)
    elif isinstance(value, float) and not math.isfinite(value):
        yield prefix, str(value)
    elif isinstance(value, Mapping):
        yield prefix, "{}"
    elif value is None or isinstance(value, str | int | float):
        yield prefix, value
    else:
        yield prefix, str(value)


def _load_yaml(text: str) -> Any:
    try:
        import yaml  # only for files of a rarer form: it takes longer than reading 1,000 runs
    except ImportError as error:
        raise ValueError("its form needs the yaml package, which is not installed") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"no valid yaml: {' '.join(str(error).split())}") from error


def _without_aliases(text: str) -> str:
    """Return the same yaml with everything spelled out where it stands."""
    tree = _load_yaml(text)
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(tree, Dumper=Plain, sort_keys=False)
