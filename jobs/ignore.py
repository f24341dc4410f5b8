"""`.gitignore` rules for machines without git.

Covers the documented format: comments, `!`, leading and trailing `/`, `*`, `?`, `[...]`, `**`,
files in subfolders, last match wins, nothing comes back below an ignored folder. Left out: the
user's global ignore file and `.git/info/exclude`. With git installed, git itself decides.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache

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

    def enter(self, root: str, folder: str) -> IgnoreRules:
        """Return the rules inside `folder` (`a/b/`, "" for the root itself)."""
        try:
            with open(os.path.join(root, folder, ".gitignore"), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            return self
        rules = tuple(rule for rule in map(_parse_line, lines) if rule is not None)
        return IgnoreRules((*self.layers, (folder, rules)))

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
