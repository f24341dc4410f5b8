"""The project's own Python files as syntax trees, read once for all structure tests."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jobs", "egovl", "launchers")


@dataclass(frozen=True)
class Module:
    """One file: dotted name, path and tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


@functools.cache
def modules(*folders: str) -> tuple[Module, ...]:
    """All modules below the given top-level folders."""
    found = []
    for folder in folders or PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append(Module(name.removesuffix(".__init__"), path, ast.parse(path.read_text())))
    return tuple(found)


def imports(module: Module, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports; ``if TYPE_CHECKING`` blocks do not count."""
    found: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                skipped.update(ast.walk(child))
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped.update(n for n in ast.walk(node) if n is not node)
    for node in ast.walk(module.tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found
