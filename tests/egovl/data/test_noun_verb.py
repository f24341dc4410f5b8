"""Noun and verb classes: words in their usual forms, the longest run of them wins."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from egovl.data.datasets.egoclip_table import load_table
from egovl.data.noun_verb import load_taxonomy, tag_table
from tests.egovl.data.numbered_video import write_egoclip

NOUNS = """label,group
knife,"['knife', 'machete']"
chopping_board,"['chopping_board', 'cutting_board']"
board,['board']
berry,
leaf,"['leaf', 'leave']"
"""
VERBS = """id,label
0,"cut_(trim,_slice,_chop)"
1,turn-on_(switch_on)
2,carry
3,put
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "nouns.csv").write_text(NOUNS)
    (tmp_path / "verbs.csv").write_text(VERBS)
    return tmp_path / "nouns.csv", tmp_path / "verbs.csv"


@pytest.mark.parametrize(
    ("text", "nouns", "verbs"),
    [
        ("#C C cuts the berries with a knife", [0, 3], [0]),
        ("#C C chopped berries on the Chopping Board", [1, 3], [0]),
        ("#O man X puts two boards down", [2], [3]),
        ("#C C switches on the tap", [], [1]),
        ("#C C is carrying leaves, slicing them", [4], [0, 2]),
        ("#unsure", [], []),
        ("", [], []),
    ],
)
def test_a_narration_is_tagged(
    files: tuple[Path, Path], text: str, nouns: list[int], verbs: list[int]
) -> None:
    assert load_taxonomy(files[0]).tag(text) == nouns
    assert load_taxonomy(files[1]).tag(text) == verbs


def test_a_tagged_table_is_read_as_egoclip(files: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [
        ("u", 0.0, 1.0, "#C C cuts berries", [9], [9]),
        ("u", 1.0, 2.0, "#C C looks around", [9], [9]),
    ]
    table = write_egoclip(tmp_path / "egoclip.csv", rows)
    nouns, verbs = (load_taxonomy(path) for path in files)
    counts = tag_table(table, tmp_path / "tagged.csv", nouns, verbs)
    assert (counts.rows, counts.with_noun, counts.with_verb, counts.with_both) == (2, 1, 1, 1)
    read = load_table(tmp_path / "tagged.csv", "raise")
    assert [read.value("nouns", row) for row in range(2)] == [[3], []]
    assert [read.value("verbs", row) for row in range(2)] == [[0], []]
    before, after = (
        [dict(row) for row in csv.DictReader(path.open(), delimiter="\t")]
        for path in (table, tmp_path / "tagged.csv")
    )
    for row in (*before, *after):
        del row["tag_verb"], row["tag_noun"]
    assert before == after


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word\nknife\n", "lacks the column label"),
        ("label,group\nknife,oops\n", "line 2"),
        ("label,group\nknife,[1]\n", "no list of words"),
        ("label\n", "lists no words"),
    ],
)
def test_a_wrong_taxonomy_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "words.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_taxonomy(tmp_path / "words.csv")
