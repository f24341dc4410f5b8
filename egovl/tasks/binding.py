"""Tasks that need to know their dataset: class texts, sentences, the relevancy of pairs."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")


@runtime_checkable
class NeedsDataset(Protocol):
    """A task that reads facts of its dataset before the first batch."""

    def bind(self, dataset: Any, tokenizer: Any) -> None:
        """Take what is needed.

        Raises:
            ValueError: the dataset lacks it.
        """
        ...


def bind(task: Task, dataset: Any, tokenizer: Any) -> Task:
    """The task, having seen its dataset if it wants to."""
    if isinstance(task, NeedsDataset):
        task.bind(dataset, tokenizer)
    return task


def take(dataset: Any, attribute: str, task: str) -> Any:
    """An attribute of a dataset that a task cannot do without.

    Raises:
        ValueError: the dataset has no such attribute.
    """
    value = getattr(dataset, attribute, None)
    if value is None:
        raise ValueError(
            f"task {task} needs a dataset with {attribute}; {type(dataset).__name__} has none"
        )
    return value
