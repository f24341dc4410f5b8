"""Whose turn it is: a function of the step, from any step on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from egovl.data.alternation import AlternatingBatches, Turns


class Counted:
    """Stands for an endless loader: counts its batches, and says whether it was closed."""

    def __init__(self, name: str, start: int) -> None:
        self.name, self.number, self.closed = name, start, False

    def __next__(self) -> tuple[str, int]:
        self.number += 1
        return self.name, self.number - 1

    def close(self) -> None:
        self.closed = True


def batches(children_per_parent: int, start: int) -> tuple[AlternatingBatches, list[Counted]]:
    opened: list[Counted] = []

    def loader(name: str) -> Any:
        def open_at(number: int) -> Counted:
            opened.append(Counted(name, number))
            return opened[-1]

        return open_at

    turns = Turns(children_per_parent)
    return AlternatingBatches(turns, start, loader("child"), loader("parent")), opened


def test_a_parent_follows_every_fifth_child() -> None:
    turns = Turns(5)
    kinds = [turns.is_parent(step) for step in range(12)]
    assert kinds == [False] * 5 + [True] + [False] * 5 + [True]
    assert turns.steps_of(52, 99) == 62


@pytest.mark.parametrize("children_per_parent", [0, 1, 2, 5])
@pytest.mark.parametrize("start", range(14))
def test_from_any_step_on_the_batches_are_those_of_the_unbroken_run(
    children_per_parent: int, start: int
) -> None:
    whole, _ = batches(children_per_parent, 0)
    order = [cast(Any, next(whole)) for _ in range(start + 10)]
    resumed, _ = batches(children_per_parent, start)
    assert [next(resumed) for _ in range(10)] == order[start:]
    for kind in ("child", "parent"):
        numbers = [number for name, number in order if name == kind]
        assert numbers == list(range(len(numbers)))


def test_without_children_their_loader_is_not_opened_and_an_epoch_is_the_parents() -> None:
    found, opened = batches(0, 3)
    assert [name for name, _ in (cast(Any, next(found)) for _ in range(4))] == ["parent"] * 4
    assert [loader.name for loader in opened] == ["parent"]
    assert Turns(0).steps_of(52, 9) == 9


def test_closing_stops_both_loaders() -> None:
    found, opened = batches(2, 0)
    found.close()
    assert [loader.closed for loader in opened] == [True, True]
