"""One yaml file and ``key=value`` overrides -> nested frozen dataclasses, strict.

A recipe says only what differs from the defaults. Paths may begin with ``$name``, a data root of
``configs/paths.yaml``; ``base:`` names one other recipe to start from, a block of which an empty
one, ``evaluate: {}``, takes away. dacite checks and builds the values; an unknown key or table name
is refused with the closest known one. Nothing heavy is imported, so a recipe is checked in a
fraction of a second, before anything is queued.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast

import dacite
import yaml

HOME_VARIABLE = "EGOVL_HOME"
Tree = dict[str, Any]


class ConfigError(ValueError):
    """A recipe or an override is wrong; the message says where and what would be right."""


@dataclass(frozen=True)
class Context:
    """Where relative paths start, and the data roots that ``$name`` stands for."""

    home: Path
    roots: Mapping[str, str] = field(default_factory=dict)

    def path(self, value: object) -> Path:
        """Expand ``$name`` and ``~``; a relative path starts at the project's root."""
        text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if not text:
            raise ConfigError(f"expected a path, got {value!r}")
        if text.startswith("$"):
            name, _, rest = text[1:].partition("/")
            if name not in self.roots:
                raise ConfigError(
                    f"{text}: no data root {name!r} in configs/paths.yaml"
                    f"{_closest(name, self.roots)}"
                )
            text = os.path.join(self.roots[name], rest) if rest else self.roots[name]
        return self.home / Path(text).expanduser()


def load_tree(file: Path, overrides: Sequence[str] = ()) -> Tree:
    """Read a recipe, its base and the overrides into one tree of plain values.

    Raises:
        ConfigError: missing or malformed file, a base of a base, an override that is no key=value.
    """
    tree = _read_yaml(file)
    base = tree.pop("base", None)
    if base is not None:
        parent = _read_yaml(file.parent / str(base))
        if "base" in parent:
            raise ConfigError(f"{file}: its base {base} has a base itself; one level is allowed")
        tree = _merge(parent, tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not key=value, as in optim.lr=3e-5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: the value is not yaml: {error}") from error
        _set(tree, key.split("."), value, override)
    return tree


def find_context(file: Path, home: Path | None = None) -> Context:
    """Data roots from the ``paths.yaml`` nearest above a recipe.

    Relative roots start at ``EGOVL_HOME`` (the tree a job was launched from; a job itself runs in a
    snapshot of it), else at the folder that holds ``configs/``.
    """
    folders = list(file.resolve().parents)
    found = next((f / "paths.yaml" for f in folders if (f / "paths.yaml").is_file()), None)
    if home is None:
        named = os.environ.get(HOME_VARIABLE)
        home = Path(named) if named else (found.parents[1] if found else Path.cwd())
    roots = {k: str(v) for k, v in _read_yaml(found).items() if v is not None} if found else {}
    return Context(home.resolve(), roots)


def build(cls: type[Any], tree: Tree, context: Context, where: str = "") -> Any:
    """Build a config dataclass from a tree.

    Raises:
        ConfigError: unknown key or name (with the closest known one), wrong type, refused value.
    """
    tagged = _check_keys(cls, tree, where)
    hooks: dict[Any, Any] = {float: _float, Path: context.path}
    for union in tagged:
        hooks[union] = lambda data, u=union: _build_tagged(u, data, context)
    settings = dacite.Config(strict=True, type_hooks=hooks, cast=[tuple])
    try:
        return dacite.from_dict(cls, tree, settings)
    except dacite.DaciteFieldError as error:
        place = ".".join(part for part in (where, error.field_path or "") if part)
        raise ConfigError(f"{place}: {_sentence(error)}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def dump(config: Any) -> str:
    """The resolved config as yaml, every value spelled out."""
    return yaml.safe_dump(plain(config), sort_keys=False)


def variants(hint: Any) -> dict[str, type[Any]]:
    """Dataclasses of a union by their tag: a field ``name`` that may hold one value only."""
    found: dict[str, type[Any]] = {}
    for member in _members(hint):
        if is_dataclass(member):
            allowed = typing.get_args(typing.get_type_hints(member).get("name"))
            if len(allowed) == 1 and isinstance(allowed[0], str):
                found[allowed[0]] = cast("type[Any]", member)
    return found


def _check_keys(cls: type[Any], tree: Any, where: str) -> set[Any]:
    """Refuse unknown keys anywhere below; return the tagged unions that were met."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where or 'the recipe'}: expected keys and values, got {tree!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    met: set[Any] = set()
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}{_closest(str(key), known)}")
        if _members(hints[key]) == [Path] and not _may_be_path(value):
            raise ConfigError(f"{place}: expected a path, got {value!r}")
        for union in _tagged_unions(hints[key]):
            met.add(union)
        inner = _inner_dataclass(hints[key])
        if inner is None or value is None:
            continue
        children = value.items() if _is_mapping_hint(hints[key]) else [("", value)]
        for name, child in children:
            below = f"{place}.{name}" if name else place
            met |= _check_one(inner, child, below)
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.init
        and f.name not in tree
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        place = f"{where}.{missing[0]}" if where else missing[0]
        raise ConfigError(f"{place}: missing; it has no default")
    return met


def _check_one(hint: Any, child: Any, where: str) -> set[Any]:
    tags = variants(hint)
    named = isinstance(child, Mapping) and "name" in child
    if tags and (named or not is_dataclass(hint)):
        return _check_keys(_pick(tags, child, where), child, where)
    return _check_keys(cast("type[Any]", hint), child, where)


def _build_tagged(union: Any, data: Any, context: Context) -> Any:
    return build(_pick(variants(union), data, ""), data, context) if data is not None else None


def _pick(tags: Mapping[str, type[Any]], data: Any, where: str) -> type[Any]:
    name = data.get("name") if isinstance(data, Mapping) else data
    if name is None:  # one variant may stand for a section that names none
        name = next((tag for tag, cls in tags.items() if getattr(cls, "is_default", False)), None)
    if not isinstance(name, str) or name not in tags:
        raise ConfigError(
            f"{where}.name: unknown name {name!r}{_closest(str(name), tags)}; "
            f"known: {', '.join(sorted(tags))}"
        )
    return tags[name]


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for m in typing.get_args(hint) if m is not type(None)]
    return [hint]


def _tagged_unions(hint: Any) -> list[Any]:
    """Unions of two or more dataclasses within a hint, as dacite will meet them."""
    if _is_mapping_hint(hint):
        return _tagged_unions(typing.get_args(hint)[1])
    return [hint] if sum(is_dataclass(m) for m in _members(hint)) > 1 else []


def _inner_dataclass(hint: Any) -> Any:
    """The dataclass, or union of dataclasses, that a value of this hint is built from."""
    if _is_mapping_hint(hint):
        return _inner_dataclass(typing.get_args(hint)[1])
    found = [m for m in _members(hint) if is_dataclass(m)]
    if len(found) > 1:
        return hint
    return found[0] if found else None


def _may_be_path(value: Any) -> bool:
    return value is None or (isinstance(value, str | os.PathLike) and bool(str(value)))


def _is_mapping_hint(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, Mapping) and len(typing.get_args(hint)) == 2


def _float(value: Any) -> Any:
    """Yaml 1.1 reads 3e-5 as text; whole numbers are floats as well."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _sentence(error: dacite.DaciteFieldError) -> str:
    if isinstance(error, dacite.WrongTypeError):
        words = [w for m in _members(error.field_type) for w in _literals(m) if isinstance(w, str)]
        near = _nearest(error.value, words) if isinstance(error.value, str) else ""
        return f"expected {_wanted(error.field_type)}, got {error.value!r}{near}"
    return str(error)


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _wanted(hint: Any) -> str:
    """A type in a user's words: what yaml may hold there."""
    words = [
        word
        for member in _members(hint)
        for word in [repr(v) for v in _literals(member)]
        or [getattr(member, "__name__", str(member))]
    ]
    if type(None) in typing.get_args(hint):
        words.append("null")
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def plain(value: Any) -> Any:
    """A config as the mappings, lists and scalars that yaml and json know."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _merge(low: Tree, high: Tree) -> Tree:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        # another variant replaces the whole block: its keys would not fit; an empty one clears it
        before, after = _as_tree(old), _as_tree(value)
        if before is None or not after:
            merged[key] = value
        elif after.get("name", before.get("name")) == before.get("name"):
            merged[key] = _merge(before, after)
        else:
            merged[key] = value
    return merged


def _as_tree(value: Any) -> Tree | None:
    return cast(Tree, value) if isinstance(value, dict) else None


def _set(tree: Tree, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        child = tree.setdefault(key, {})
        below = _as_tree(child)
        if below is None:
            raise ConfigError(f"override {override!r}: {key!r} is {child!r}, it has no keys below")
        tree = below
    tree[keys[-1]] = value


def _refuse_doubles(node: yaml.Node | None) -> None:
    """Refuse a key that stands twice in one block, of which the last one would win unseen."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an anchor's
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += (value for _, value in node.value)
            keys = [key.value for key, _ in node.value]
            for number, key in enumerate(keys):
                if key in keys[:number]:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key!r} stands twice: remove one",
                        problem_mark=node.value[number][0].start_mark,
                    )


def _read_yaml(file: Path) -> Tree:
    try:
        text = file.read_text()
        # before blocks are merged: a key that overrides a merged one stands once
        _refuse_doubles(yaml.compose(text, yaml.SafeLoader))
        tree = yaml.safe_load(text)
    except FileNotFoundError as error:
        near = sorted(f.name for f in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise ConfigError(f"{file}: no such recipe{_closest(file.name, near)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    found = _as_tree(tree)
    if found is None:
        raise ConfigError(f"{file}: expected keys and values, got {type(tree).__name__}")
    return found


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return _nearest(name, names) or (f"; known: {', '.join(names)}" if names else "")


def _nearest(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
