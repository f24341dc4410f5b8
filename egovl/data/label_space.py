"""Class lists of the benchmarks: names in the released order, and the texts that describe them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabelSpace:
    """Classes by index.

    Attributes:
        names: What annotations call each class.
        texts: Texts of each class, for zero-shot classification.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numbers(self) -> dict[str, int]:
        """Index of each name."""
        return {name: i for i, name in enumerate(self.names)}


def epic_actions(rows: Iterable[tuple[int, int, str]]) -> LabelSpace:
    """EK-100's actions ``verb:noun`` in the order of these strings (LaViLa spec 3.9).

    Args:
        rows: Verb class, noun class and narration of every row of training and validation.
    """
    texts: dict[str, set[str]] = {}
    for verb, noun, narration in rows:
        texts.setdefault(f"{verb}:{noun}", set()).add(narration)
    names = sorted(texts)
    return LabelSpace(tuple(names), tuple(tuple(sorted(texts[name])) for name in names))


def action_parts(actions: LabelSpace) -> tuple[list[int], list[int]]:
    """Verb and noun of each of EK-100's actions."""
    pairs = [name.split(":") for name in actions.names]
    return [int(verb) for verb, _ in pairs], [int(noun) for _, noun in pairs]


def egtea_actions(lines: Sequence[str]) -> LabelSpace:
    """EGTEA's actions from ``action_idx.txt``: ``Open fridge_drawer 7``, in the file's order."""
    names = []
    for line in lines:
        text, _, number = line.strip().rpartition(" ")
        if not text or not number.isdecimal():
            raise ValueError(f"{line!r} is no action and number")
        names.append(text.replace("_", " ").lower())
    return LabelSpace(tuple(names), tuple((name,) for name in names))


def charades_classes(lines: Sequence[str]) -> LabelSpace:
    """Charades' classes ``c012 Some text``; as published, text after a comma is cut off."""
    names, texts = [], []
    for cells in csv.reader(lines):
        code, _, text = cells[0].partition(" ")
        names.append(code)
        texts.append((text,))
    return LabelSpace(tuple(names), tuple(texts))


def read_lines(path: Path) -> list[str]:
    """Lines of a class file that hold something.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"classes {path} does not exist")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    return lines
