"""From what a sweep varies to the recipe values of each of its members. Pure.

Flags: `optim.lr=1e-5,3e-5` lists values, `seed=0..4` counts (`0..8..2` in twos); commas inside
brackets or quotes belong to a value. A file:

    grid: {optim.lr: [1e-5, 3e-5], seed: 0..4}       every combination
    list:                                            as written, one member per entry
      - {model.depth: 12, model.width: 768}
      - {model.depth: 24, model.width: 1024}
    random:                                          n draws
      n: 20
      seed: 0
      space:
        optim.lr: {log_uniform: [1e-6, 1e-3]}
        optim.weight_decay: {uniform: [0, 0.2]}
        optim.warmup_steps: {int_uniform: [0, 2000]}
        optim.schedule: {choice: [cosine, constant]}

Parts given together multiply: every draw with every seed. A draw depends on the seed, its number
and its key alone, so that more draws, or one more key, leave the others as they were.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, unknown_name
from jobs.yaml_file import as_list, as_mapping, as_text, is_empty, read_yaml, refuse_unknown

MAX_MEMBERS = 100_000

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")
_OPEN, _CLOSE = "([{", ")]}"

# What a member sets: key -> value as the recipe's overrides spell it.
Values = dict[str, str]


def expand_sweep(words: Sequence[str], file: Path | None = None) -> list[tuple[str, ...]]:
    """Return the `key=value` overrides of each member, in order, each combination once.

    Args:
        words: `key=values`, one per flag.
        file: with `grid:`, `list:` and `random:`.

    Raises:
        ConfigError: if a word or the file makes no sense, or there are too many members.
    """
    parts = read_sweep(file) if file else []
    return _combine(parts + _axes(words))


def expand_entry(value: Any, where: str) -> list[tuple[str, ...]]:
    """Return the members of a `sweep:` in a yaml: what a file holds, or a list of the flags' words.

    Raises:
        ConfigError: as `expand_sweep`.
    """
    if isinstance(value, dict):
        return _combine(_read_parts(as_mapping(value, where), where))
    words = [str(word) for word in as_list(value, where)]
    if not words:
        raise ConfigError(f"{where}: nothing to vary; write ['optim.lr=1e-5,3e-5'] or grid:")
    return _combine(_axes(words))


def _axes(words: Sequence[str]) -> list[list[Values]]:
    return [[{key: value} for value in values] for key, values in map(parse_axis, words)]


def _combine(parts: Sequence[list[Values]]) -> list[tuple[str, ...]]:
    keys = [{key for values in part for key in values} for part in parts]
    for first, second in itertools.combinations(keys, 2):
        if both := first & second:
            raise ConfigError(f"the sweep sets {', '.join(sorted(both))} twice")
    count = math.prod(len(part) for part in parts)
    if count > MAX_MEMBERS:
        raise ConfigError(f"a sweep of {count} members: at most {MAX_MEMBERS}")
    members = (
        tuple(f"{key}={value}" for values in each for key, value in values.items())
        for each in itertools.product(*parts)
    )
    return list(dict.fromkeys(members))


def parse_axis(word: str) -> tuple[str, list[str]]:
    """Return the key and the values of one `key=values`.

    Raises:
        ConfigError: if it is none.
    """
    key, equals, text = word.partition("=")
    values = [value for piece in _split(text, word) for value in _count(piece, word)]
    if not key or not equals or not all(values):
        raise ConfigError(f"not a sweep: {word!r}; write optim.lr=1e-5,3e-5 or seed=0..4")
    return key, values


def read_sweep(path: Path) -> list[list[Values]]:
    """Return the parts of a sweep file; the members are their combinations.

    Raises:
        ConfigError: naming the file and the entry that makes no sense.
    """
    return _read_parts(read_yaml(path), str(path))


def _read_parts(values: dict[str, Any], where: str) -> list[list[Values]]:
    refuse_unknown(values, ("grid", "list", "random"), where)
    parts: list[list[Values]] = []
    for key, axis in as_mapping(values.get("grid"), f"{where}: grid").items():
        parts.append([{key: value} for value in _axis_values(axis, f"{where}: grid: {key}")])
    if not is_empty(values.get("list")):
        parts.append(_read_list(values["list"], f"{where}: list"))
    if not is_empty(values.get("random")):
        parts.append(_read_random(values["random"], f"{where}: random"))
    if not parts or not all(parts):
        raise ConfigError(f"{where}: nothing to vary; write grid:, list: or random:")
    return parts


def _axis_values(axis: Any, where: str) -> list[str]:
    if isinstance(axis, list):
        return [_as_override(value, where) for value in as_list(axis, where)]
    text = as_text(axis)
    if text is None:
        raise ConfigError(f"{where}: no values")
    return [value for piece in _split(text, where) for value in _count(piece, where)]


def _read_list(entries: Any, where: str) -> list[Values]:
    members: list[Values] = []
    for number, entry in enumerate(as_list(entries, where), 1):
        member = as_mapping(entry, f"{where}: entry {number}")
        members.append({k: _as_override(v, f"{where}: {k}") for k, v in member.items()})
    return members


def _read_random(values: Any, where: str) -> list[Values]:
    given = as_mapping(values, where)
    refuse_unknown(given, ("n", "seed", "space"), where)
    count, seed = (_whole(given.get(key, default), where) for key, default in _RANDOM.items())
    space = as_mapping(given.get("space"), f"{where}: space")
    if count < 1 or not space:
        raise ConfigError(f"{where}: it needs n: and space:")
    draws = {key: _read_draw(value, f"{where}: {key}") for key, value in space.items()}
    return [
        {key: draw(random.Random(f"{seed} {number} {key}")) for key, draw in draws.items()}
        for number in range(count)
    ]


_RANDOM = {"n": "0", "seed": "0"}

Draw = Callable[[random.Random], str]


def _read_draw(value: Any, where: str) -> Draw:
    """Return how a value is drawn, from `{distribution: arguments}`."""
    entry = as_mapping(value, where)
    if len(entry) != 1:
        raise ConfigError(f"{where}: write one distribution, as {{log_uniform: [1e-6, 1e-3]}}")
    [(name, arguments)] = entry.items()
    if name not in _DRAWS:
        raise ConfigError(f"{where}: " + unknown_name("distribution", name, _DRAWS))
    return _DRAWS[name](as_list(arguments, where), where)


def _uniform(arguments: Sequence[Any], where: str) -> Draw:
    low, high = _bounds(arguments, where)
    return lambda source: f"{source.uniform(low, high):.6g}"


def _log_uniform(arguments: Sequence[Any], where: str) -> Draw:
    low, high = _bounds(arguments, where)
    if low <= 0:
        raise ConfigError(f"{where}: log_uniform needs bounds above 0, found {low:g}")
    return lambda source: f"{math.exp(source.uniform(math.log(low), math.log(high))):.6g}"


def _int_uniform(arguments: Sequence[Any], where: str) -> Draw:
    low, high = _bounds(arguments, where)
    if low != int(low) or high != int(high):
        raise ConfigError(f"{where}: int_uniform needs whole numbers, found {arguments}")
    return lambda source: str(source.randint(int(low), int(high)))


def _choice(arguments: Sequence[Any], where: str) -> Draw:
    values = [_as_override(value, where) for value in arguments]
    if not values:
        raise ConfigError(f"{where}: no values to choose from")
    return lambda source: source.choice(values)


_DRAWS: Mapping[str, Callable[[Sequence[Any], str], Draw]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "int_uniform": _int_uniform,
    "choice": _choice,
}


def _bounds(arguments: Sequence[Any], where: str) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in arguments)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: expected [low, high], found {list(arguments)}") from None
    if not low < high or not math.isfinite(high - low):
        raise ConfigError(f"{where}: {arguments[0]} is not below {arguments[1]}")
    return low, high


def _whole(value: Any, where: str) -> int:
    if not str(value).isdecimal():
        raise ConfigError(f"{where}: not a whole number: {value!r}")
    return int(value)


def _as_override(value: Any, where: str) -> str:
    """Return a yaml value as `key=value` overrides spell it: lists and mappings in brackets."""
    if isinstance(value, list):
        return f"[{', '.join(_as_override(each, where) for each in as_list(value, where))}]"
    if isinstance(value, dict):
        pairs = as_mapping(value, where).items()
        return "{" + ", ".join(f"{k}: {_as_override(v, where)}" for k, v in pairs) + "}"
    if value is None or value == "":
        raise ConfigError(f"{where}: an empty value")
    return str(value)


def _count(piece: str, where: str) -> list[str]:
    """Return the numbers of `0..4`; anything else is a value itself."""
    match = _RANGE.fullmatch(piece)
    if match is None:
        return [piece]
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if last < first or step < 1 or (last - first) // step >= MAX_MEMBERS:
        raise ConfigError(f"{where}: {piece} counts from {first} to {last} in steps of {step}")
    return [str(number) for number in range(first, last + 1, step)]


def _split(text: str, where: str) -> list[str]:
    """Return the parts between commas that are in no bracket and no quotes."""
    parts: list[str] = []
    depth, quote, start = 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    if depth or quote:
        raise ConfigError(f"{where}: a bracket or quote stays open")
    return [*parts, text[start:].strip()]
