from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.configuration_check import CHECKED, ConfigurationCheck
from jobs.errors import ConfigError
from jobs.snapshot import Snapshot, take_snapshot

# Counts its calls beside the project, names a file, a folder and what is not there.
JUDGE = """\
import os, sys
from pathlib import Path
home = Path(os.environ["EGOVL_HOME"])
with open(home.parent / "calls", "a") as file:
    file.write("x")
print("model:")
print("  depth: 4")
print(f"  annotations: '{home.parent}/data/table.csv'")
print("  root: data/videos")
print(f"  out: {home.parent}/data/made/later")
if "bad=1" in sys.argv:
    sys.exit("bad: not a value")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "data/videos").mkdir(parents=True)
    (home / ".gitignore").write_text("data/\n")
    (home / "judge.py").write_text(JUDGE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.csv").write_text("a,b\n")
    return home


def judge(home: Path, *words: str) -> int:
    """Judge, and return how often the program has run so far."""
    snapshot: Snapshot = take_snapshot(home, home.parent / "store")
    ConfigurationCheck("judge", ("check", *words), snapshot, home).wait()
    return len((home.parent / "calls").read_text())


def test_a_good_verdict_is_not_asked_for_twice(home: Path) -> None:
    assert judge(home) == judge(home) == 1


def test_other_words_or_code_are_judged(home: Path) -> None:
    assert (judge(home), judge(home, "a=1"), judge(home, "a=2"), judge(home, "a=1")) == (1, 2, 3, 3)
    (home / "more.py").write_text("x = 1\n")
    assert judge(home) == 4


@pytest.mark.parametrize("change", ["edited", "touched", "gone", "folder gone"])
def test_a_verdict_holds_while_what_the_configuration_names_is_the_same(
    home: Path, change: str
) -> None:
    table = home.parent / "data/table.csv"
    assert judge(home) == judge(home) == 1
    if change == "edited":
        table.write_text("a,b\n1,2\n")
    elif change == "touched":
        os.utime(table, (1, 1))
    elif change == "gone":
        table.unlink()
    else:
        (home / "data/videos").rmdir()
    assert judge(home) == 2


def test_files_that_come_into_a_named_folder_change_nothing(home: Path) -> None:
    judge(home)
    (home / "data/videos/new.mp4").write_text("x")
    assert judge(home) == 1


def test_a_bad_verdict_is_given_in_the_programs_words_each_time(home: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="bad: not a value"):
            judge(home, "bad=1")
    assert len((home.parent / "calls").read_text()) == 2


def test_another_environment_of_the_program_is_judged_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(home)
    monkeypatch.setenv("EGOVL_SOMETHING", "1")
    assert judge(home) == 2


def test_a_damaged_memory_only_costs_time(home: Path) -> None:
    judge(home)
    for path in (home.parent / "store" / CHECKED).iterdir():
        path.write_text("{")
    assert (judge(home), judge(home)) == (2, 2)


def test_a_program_that_judges_nothing_is_not_started(home: Path) -> None:
    ConfigurationCheck("absent", (), take_snapshot(home, home.parent / "store"), home).wait()
    assert not (home.parent / "calls").exists()
