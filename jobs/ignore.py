"""Git's ignore rules for machines without git.

Covers the documented format: comments, `!`, leading and trailing `/`, `*`, `?`, `[...]`, `**`,
files in subfolders, last match wins, nothing comes back below an ignored folder; and the places:
`.gitignore` in every folder, `.git/info/exclude`, `core.excludesFile`. With git installed, git
itself decides.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache

from jobs.git import git_folder

ALWAYS_IGNORED = (".git", "__pycache__")


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    negated: bool
    folders_only: bool


@dataclass(frozen=True)
class IgnoreRules:
    """The rules that hold in one folder: its own `.gitignore` and those of the folders above.

    Attributes:
        layers: (folder as `a/b/` or "" for the root, rules of its file), outermost first.
    """

    layers: tuple[tuple[str, tuple[_Rule, ...]], ...] = field(default=())

    @classmethod
    def of_repository(cls, root: str, folder: str = "") -> IgnoreRules:
        """Return the rules that hold before any `.gitignore`: the user's and the repository's.

        Args:
            root: the tree.
            folder: of the repository below it, as `a/b/`; it need not be one.
        """
        home = git_folder(os.path.join(root, folder))
        files = [_excludes_file(home), os.path.join(home, "info", "exclude") if home else ""]
        layers = [(folder, rules) for file in files if file and (rules := _read_rules(file))]
        return cls(tuple(layers))

    def enter(self, root: str, folder: str) -> IgnoreRules:
        """Return the rules inside `folder` (`a/b/`, "" for the root itself)."""
        path = os.path.join(root, folder, ".gitignore")
        rules = () if os.path.islink(path) else _read_rules(path)
        return IgnoreRules((*self.layers, (folder, rules))) if rules else self

    def ignores(self, path: str, is_folder: bool) -> bool:
        """Return whether `path`, relative to the root, is left out."""
        if path.rsplit("/", 1)[-1] in ALWAYS_IGNORED:
            return True
        for folder, rules in reversed(self.layers):
            inside = path[len(folder) :]
            for rule in reversed(rules):
                if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(inside):
                    return not rule.negated
        return False


def _read_rules(path: str) -> tuple[_Rule, ...]:
    try:
        with open(path, "rb") as file:
            text = os.fsdecode(file.read().removeprefix(b"\xef\xbb\xbf"))
    except OSError:
        return ()
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return tuple(rule for rule in map(_parse_line, lines) if rule is not None)


def _excludes_file(git_folder: str) -> str:
    """Return the path of `core.excludesFile`; the later of git's configuration files wins."""
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    configs = ["/etc/gitconfig", f"{settings}/git/config", os.path.expanduser("~/.gitconfig")]
    found = f"{settings}/git/ignore"
    for config in [*configs, f"{git_folder}/config"]:
        section = ""
        for line in _lines(config):
            if line.startswith("["):
                section = line[1:].partition("]")[0].strip().lower()
            key, _, value = line.partition("=")
            if section == "core" and key.strip().lower() == "excludesfile":
                found = os.path.expanduser(value.strip().strip('"'))
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file]
    except (OSError, UnicodeDecodeError):
        return []


@lru_cache(maxsize=4096)
def _parse_line(line: str) -> _Rule | None:
    if line.startswith("#"):
        return None
    line = re.sub(r"(?<!\\) +$", "", line)
    negated = line.startswith("!")
    line = line[1:] if negated else line
    folders_only = line.endswith("/")
    line = line.rstrip("/") if folders_only else line
    if not line:
        return None
    anchored = "/" in line
    expression = _translate(line.lstrip("/"))
    prefix = "" if anchored else "(?:.*/)?"
    return _Rule(re.compile(prefix + expression, re.DOTALL), negated, folders_only)


_TOKEN = re.compile(r"/\*\*/|^\*\*/|/\*\*$|\*+|\?|\\.|\[!?\]?(?:[^\]\\]|\\.)*\]|.", re.DOTALL)
_FIXED = {"/**/": "/(?:.*/)?", "**/": "(?:.*/)?", "/**": "/.+", "?": "[^/]"}


def _translate(pattern: str) -> str:
    parts: list[str] = []
    for token in _TOKEN.findall(pattern):
        if token in _FIXED:
            parts.append(_FIXED[token])
        elif token.startswith("*"):
            parts.append("[^/]*")
        elif token.startswith("[") and len(token) > 1:
            body = token[1:-1].replace("[", r"\[")
            parts.append("(?!/)[" + ("^" + body[1:] if body[:1] in "!^" else body) + "]")
        elif token.startswith("\\"):
            parts.append(re.escape(token[1:]))
        else:
            parts.append(re.escape(token))
    return "".join(parts)
