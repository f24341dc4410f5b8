"""Two kinds of batches by turns: clips with narrations, then videos with summaries (HierVL spec 4).

Whose turn it is, and which of its batches, is a function of the step alone; so a resume needs no
state beside the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from egovl.data.loader import TrainLoader
from egovl.data.types import Batch


@dataclass(frozen=True)
class Turns:
    """One parent step after every ``children_per_parent`` child steps; with 0, parents only."""

    children_per_parent: int = 5

    def is_parent(self, step: int) -> bool:
        """Whether a step, counted from 0, is a parent's."""
        return step % (self.children_per_parent + 1) == self.children_per_parent

    def parents_before(self, step: int) -> int:
        """Parent steps among the first ``step``."""
        return step // (self.children_per_parent + 1)

    def children_before(self, step: int) -> int:
        """Child steps among the first ``step``."""
        return step - self.parents_before(step)

    def steps_of(self, child_steps: int, parent_steps: int) -> int:
        """Steps of an epoch: a pass over the clips; over the videos, where only they are seen."""
        if self.children_per_parent == 0:
            return parent_steps
        return child_steps + child_steps // self.children_per_parent


class AlternatingBatches(Iterator[Batch]):
    """Batches of two endless loaders by turns, from any step on.

    Args:
        turns: Whose turn it is.
        start_step: Steps that were taken before.
        children: From a number of child steps taken to the batches after them; not called if no
            turn is theirs.
        parents: Likewise of parent steps.
    """

    def __init__(
        self,
        turns: Turns,
        start_step: int,
        children: Callable[[int], TrainLoader],
        parents: Callable[[int], TrainLoader],
    ) -> None:
        self._turns = turns
        self._step = start_step
        self._parents = parents(turns.parents_before(start_step))
        self._children: TrainLoader | None = None
        if turns.children_per_parent:
            self._children = children(turns.children_before(start_step))

    def __next__(self) -> Batch:
        parent = self._turns.is_parent(self._step)
        self._step += 1
        if parent or self._children is None:
            return next(self._parents)
        return next(self._children)

    def close(self) -> None:
        """Stop the loading processes of both."""
        self._parents.close()
        if self._children is not None:
            self._children.close()
