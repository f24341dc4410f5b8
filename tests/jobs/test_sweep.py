from __future__ import annotations

import math
from pathlib import Path

import pytest

from jobs.errors import ConfigError
from jobs.sweep import expand_sweep, parse_axis


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return path


def test_flags_make_every_combination_in_order() -> None:
    assert expand_sweep(["optim.lr=1e-5,3e-5", "seed=0..2"]) == [
        ("optim.lr=1e-5", "seed=0"),
        ("optim.lr=1e-5", "seed=1"),
        ("optim.lr=1e-5", "seed=2"),
        ("optim.lr=3e-5", "seed=0"),
        ("optim.lr=3e-5", "seed=1"),
        ("optim.lr=3e-5", "seed=2"),
    ]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("a=-2..1", ["-2", "-1", "0", "1"]),
        ("a=0..8..4,20", ["0", "4", "8", "20"]),
        ("a=[0.9,0.95],[0.9,0.99]", ["[0.9,0.95]", "[0.9,0.99]"]),
        ("a={x: 1, y: 2},none", ["{x: 1, y: 2}", "none"]),
        ("a='p,q',r", ["'p,q'", "r"]),
        ("a=../x,b=c", ["../x", "b=c"]),
    ],
)
def test_values_are_told_apart(word: str, values: list[str]) -> None:
    assert parse_axis(word) == ("a", values)


@pytest.mark.parametrize(
    "word", ["a", "=1", "a=", "a=1,,2", "a=5..1", "a=0..9..0", "a=[1,2", "a='x", "a=0..99999999"]
)
def test_a_word_that_is_no_sweep_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        expand_sweep([word])


def test_the_same_member_twice_is_one(tmp_path: Path) -> None:
    assert expand_sweep(["seed=1,2,1"]) == [("seed=1",), ("seed=2",)]
    file = write(tmp_path, "list:\n- {a: 1}\n- {a: 2}\n- {a: 1}\n")
    assert expand_sweep([], file) == [("a=1",), ("a=2",)]


def test_parts_of_a_file_and_flags_multiply(tmp_path: Path) -> None:
    text = "grid: {a: [1, [2, 3]], b: 0..1}\nlist:\n- {c: x, d: {e: 1}}\n- {c: y}\n"
    members = expand_sweep(["s=7"], write(tmp_path, text))
    assert len(members) == 8
    assert members[0] == ("a=1", "b=0", "c=x", "d={e: 1}", "s=7")
    assert members[-1] == ("a=[2, 3]", "b=1", "c=y", "s=7")


SPACE = """random:
  n: {n}
  seed: {seed}
  space:
    lr: {{log_uniform: [1e-6, 1e-3]}}
    decay: {{uniform: [0, 0.2]}}
    steps: {{int_uniform: [10, 12]}}
    schedule: {{choice: [cosine, constant]}}
"""


def draw(tmp_path: Path, n: int, seed: int = 0) -> list[tuple[str, ...]]:
    return expand_sweep([], write(tmp_path, SPACE.format(n=n, seed=seed)))


def test_draws_keep_to_their_bounds_and_spread_over_them(tmp_path: Path) -> None:
    members = [dict(word.split("=") for word in member) for member in draw(tmp_path, 200)]
    rates = [math.log10(float(member["lr"])) for member in members]
    assert min(rates) >= -6 and max(rates) <= -3
    assert abs(sum(rates) / len(rates) + 4.5) < 0.2
    assert {member["steps"] for member in members} == {"10", "11", "12"}
    assert {member["schedule"] for member in members} == {"cosine", "constant"}
    assert all(0 <= float(member["decay"]) <= 0.2 for member in members)


def test_more_draws_or_another_key_leave_the_others_as_they_were(tmp_path: Path) -> None:
    few = draw(tmp_path, 5)
    assert draw(tmp_path, 20)[:5] == few
    assert draw(tmp_path, 5, seed=1) != few
    text = SPACE.format(n=5, seed=0) + "    width: {choice: [1, 2]}\n"
    assert [member[:4] for member in expand_sweep([], write(tmp_path, text))] == few


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {a: 1}", "did you mean 'grid'"),
        ("grid: {}", "nothing to vary"),
        ("list: {a: 1}", "expected a list"),
        ("random: {n: 3}", "it needs n: and space:"),
        ("random: {n: x, space: {a: {choice: [1]}}}", "not a whole number: 'x'"),
        ("random: {n: 3, space: {a: {lgo_uniform: [1, 2]}}}", "did you mean 'log_uniform'"),
        ("random: {n: 3, space: {a: {log_uniform: [0, 2]}}}", "bounds above 0"),
        ("random: {n: 3, space: {a: {uniform: [2, 1]}}}", "2 is not below 1"),
        ("random: {n: 3, space: {a: {uniform: 2}}}", "expected a list"),
        ("random: {n: 3, space: {a: {int_uniform: [0.5, 2]}}}", "whole numbers"),
        ("grid: {a: [1]}\nlist: [{a: 2}]", "sets a twice"),
        ("grid: {a: 0..999, b: 0..999}", "1000000 members"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_sweep([], write(tmp_path, text))
