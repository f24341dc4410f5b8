"""Noun and verb classes of a narration, by the words of a taxonomy (EgoVLP spec 3.1, 4).

EgoNCE takes two clips that share a noun and a verb as positives; EgoClip has 582 nouns and 118
verbs. A taxonomy is a csv with a column ``label`` and optionally ``group``; the class is the row.
A label names its words as ``turn-on_(switch_on,_start)``, a group as a list, ``['bag', 'sack']``.

A narration is tagged with every class one of whose words, or runs of words, it holds in any of the
usual inflections; a longer run wins over those inside it ("chopping board" is no "board").
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from egovl.atomic import replacing

_WORD = re.compile(r"[a-z0-9']+")
_SPEAKER = re.compile(r"#\s*(?:c\s+c|o\s+\w+|c|o|unsure)\b", re.IGNORECASE)
_PARTS = re.compile(r"(?P<head>[^(]*)(?:\((?P<more>[^)]*)\))?")
_ENDINGS = (
    ("ies", "y"),
    ("ied", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("es", ""),
    ("s", ""),
    ("ing", ""),
    ("ing", "e"),
    ("ed", ""),
    ("ed", "e"),
)
_SHORTEST = 2  # letters of a stem


@dataclass(frozen=True)
class Taxonomy:
    """Runs of words and their class."""

    classes: dict[tuple[str, ...], int]
    size: int

    @property
    def longest(self) -> int:
        """Words of the longest run."""
        return max(map(len, self.classes))

    def tag(self, text: str) -> list[int]:
        """Classes of a narration, increasing."""
        words = _WORD.findall(_SPEAKER.sub(" ", text.lower()))
        found: set[int] = set()
        place = 0
        while place < len(words):
            number, length = self._match(words, place)
            if number is not None:
                found.add(number)
            place += length
        return sorted(found)

    def _match(self, words: Sequence[str], place: int) -> tuple[int | None, int]:
        """Class of the longest run that begins at a word, and the words it takes."""
        for length in range(min(self.longest, len(words) - place), 0, -1):
            *front, last = words[place : place + length]
            for first in stems(front[0]) if front else [""]:
                head = (first, *front[1:]) if front else ()
                for stem in stems(last):
                    number = self.classes.get((*head, stem))
                    if number is not None:
                        return number, length
        return None, 1


@dataclass(frozen=True)
class TagCounts:
    """Rows of a tagged table, and how many of them have what."""

    rows: int
    with_noun: int
    with_verb: int
    with_both: int


def stems(word: str) -> Iterator[str]:
    """A word and what it may be a form of: plural, third person, past, -ing."""
    yield word
    for ending, instead in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < _SHORTEST:
            continue
        yield stem + instead
        if not instead and len(stem) > _SHORTEST and stem[-1] == stem[-2]:
            yield stem[:-1]  # cutting, chopped


def load_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy; a run of words that two classes list belongs to the first.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No rows, no column ``label``, a group that is no list; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"taxonomy {path} does not exist")
    classes: dict[tuple[str, ...], int] = {}
    size = 0
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "label" not in (reader.fieldnames or ()):
            raise ValueError(f"{path} lacks the column label; it has {reader.fieldnames}")
        for size, row in enumerate(reader, 1):
            try:
                runs = [*_label_runs(row["label"]), *_group_runs(row.get("group") or "[]")]
            except (ValueError, SyntaxError, TypeError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
            for run in runs:
                words = tuple(_WORD.findall(run.lower().replace("_", " ")))
                if words:
                    classes.setdefault(words, size - 1)
    if not classes:
        raise ValueError(f"{path} lists no words")
    return Taxonomy(classes, size)


def _label_runs(label: str) -> list[str]:
    found = _PARTS.match(label)
    assert found is not None
    return [found["head"], *(found["more"] or "").split(",")]


def _group_runs(cell: str) -> list[str]:
    runs = ast.literal_eval(cell)
    if not isinstance(runs, list | tuple) or not all(isinstance(run, str) for run in runs):
        raise ValueError(f"group {cell:.60} is no list of words")
    return [part for run in runs for part in _label_runs(run)]


def tag_table(egoclip: Path, out: Path, nouns: Taxonomy, verbs: Taxonomy) -> TagCounts:
    """Write a table in EgoClip's format anew, with the tags of its narrations.

    Raises:
        FileNotFoundError: No such table.
        ValueError: It has no column ``clip_text``.
    """
    if not egoclip.is_file():
        raise FileNotFoundError(f"table {egoclip} does not exist")
    rows = with_noun = with_verb = with_both = 0
    with egoclip.open(newline="", encoding="utf-8") as file, replacing(out) as tagged:
        reader = csv.DictReader(file, delimiter="\t")
        columns = list(reader.fieldnames or ())
        if "clip_text" not in columns:
            raise ValueError(f"{egoclip} lacks the column clip_text; it has {columns}")
        columns += [name for name in ("tag_verb", "tag_noun") if name not in columns]
        writer = csv.DictWriter(tagged, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in reader:
            found_verbs, found_nouns = verbs.tag(row["clip_text"]), nouns.tag(row["clip_text"])
            writer.writerow({**row, "tag_verb": str(found_verbs), "tag_noun": str(found_nouns)})
            rows += 1
            with_noun += bool(found_nouns)
            with_verb += bool(found_verbs)
            with_both += bool(found_nouns and found_verbs)
    return TagCounts(rows, with_noun, with_verb, with_both)
