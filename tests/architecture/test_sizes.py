"""Ceilings on files and functions, names that say nothing, and blocks that stand twice."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.architecture.source import Module, modules

FILE_LINES, FUNCTION_LINES, PARAMETERS, NESTING, LAUNCHER_LINES = 500, 80, 8, 4, 60
COPIED_BLOCK = 8
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
_BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)


def _functions(module: Module) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef)]


def test_no_file_is_longer_than_the_ceiling() -> None:
    long = [f"{m.path}: {len(m.lines)}" for m in modules() if len(m.lines) > FILE_LINES]
    assert not long, long


def test_launchers_are_thin() -> None:
    for module in modules("launchers"):
        if module.name != "launchers.arguments":
            assert len(module.lines) < LAUNCHER_LINES, f"{module.path}: {len(module.lines)} lines"


def test_no_function_is_longer_or_wider_than_the_ceiling() -> None:
    wrong = []
    for module in modules():
        for f in _functions(module):
            lines = (f.end_lineno or f.lineno) - f.lineno + 1
            arguments = f.args.posonlyargs + f.args.args + f.args.kwonlyargs
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            if lines > FUNCTION_LINES or count > PARAMETERS:
                wrong.append(
                    f"{module.path}:{f.lineno} {f.name}: {lines} lines, {count} parameters"
                )
    assert not wrong, "\n".join(wrong)


def test_no_function_nests_deeper_than_the_ceiling() -> None:
    def depth(node: ast.AST, level: int) -> int:
        deepest = level
        for child in ast.iter_child_nodes(node):
            is_elif = (
                isinstance(node, ast.If) and child in node.orelse and isinstance(child, ast.If)
            )
            inner = level + (isinstance(child, _BLOCKS) and not is_elif)
            deepest = max(deepest, depth(child, inner))
        return deepest

    wrong = [
        f"{m.path}:{f.lineno} {f.name}"
        for m in modules()
        for f in _functions(m)
        if depth(f, 0) > NESTING
    ]
    assert not wrong, wrong


def test_every_function_says_its_types() -> None:
    wrong = []
    for module in modules():
        for f in _functions(module):
            arguments = f.args.posonlyargs + f.args.args + f.args.kwonlyargs
            bare = [
                a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")
            ]
            if f.returns is None or bare:
                wrong.append(f"{module.path}:{f.lineno} {f.name} {bare}")
    assert not wrong, "\n".join(wrong)


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [m.path for m in modules() if m.path.stem in VAGUE]


def test_no_block_of_lines_stands_twice() -> None:
    seen: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for module in modules():
        numbered = [
            (n, line.strip())
            for n, line in enumerate(module.lines, 1)
            if line.strip()
            and not line.strip().startswith(("#", "import ", "from ", '"""', ")", "]"))
        ]
        for start in range(len(numbered) - COPIED_BLOCK + 1):
            block = tuple(line for _, line in numbered[start : start + COPIED_BLOCK])
            seen[block].append(f"{module.path}:{numbered[start][0]}")
    copied = [places for places in seen.values() if len(places) > 1]
    assert not copied, f"the same {COPIED_BLOCK} lines stand at: {copied[:5]}"
