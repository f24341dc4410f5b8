"""Some rows of a dataset, with the numbers that they have there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from egovl.data.types import ClipDataset, Sample


class Subset:
    """A dataset of chosen rows; a sample keeps its ``index`` of the whole.

    Args:
        dataset: The whole.
        rows: Which of its rows, in the order wanted.
    """

    def __init__(self, dataset: ClipDataset, rows: Sequence[int]) -> None:
        self.whole = dataset
        self.rows = rows

    @property
    def label_sizes(self) -> Mapping[str, int]:
        """As of the whole."""
        return self.whole.label_sizes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.rows[index]]

    def chunk_of(self, index: int) -> Hashable:
        """As of the whole."""
        return self.whole.chunk_of(self.rows[index])
