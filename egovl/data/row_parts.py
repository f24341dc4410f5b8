"""An array whose rows come piece by piece from many processes: parts on the disk, then one file.

::

    .<file>.parts/<first row>-<token>.npz    some rows and their numbers; whole or not there

A process that starts again finds the parts that were written before it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from egovl.atomic import replacing


class RowParts:
    """The parts of one array.

    Args:
        file: The array that they become.
        count: Its rows.
    """

    def __init__(self, file: Path, count: int) -> None:
        self._file = file
        self._folder = file.with_name(f".{file.name}.parts")
        self._count = count

    def names(self) -> list[str]:
        """The parts that are there."""
        return sorted(path.name for path in self._folder.glob("*.npz"))

    def first_missing(self) -> int:
        """The first row that no part holds; the number of rows, where none is missing."""
        there = np.zeros(self._count + 1, dtype=bool)
        for name in self.names():
            with np.load(self._folder / name) as part:
                there[part["index"]] = True
        return int(there.argmin())

    def write(self, index: np.ndarray, rows: np.ndarray) -> str:
        """Keep some rows; the part's name."""
        name = f"{int(index.min()):08d}-{secrets.token_hex(4)}.npz"
        with replacing(self._folder / name, "wb") as file:
            np.savez(file, index=index, rows=rows)
        return name

    def join(self, names: Iterable[str]) -> int:
        """Make the file of these parts and drop them, if they hold every row.

        Returns:
            How many rows they lack; if any, nothing is changed.
        """
        there = np.zeros(self._count, dtype=bool)
        array = beside = None
        for name in sorted(set(names)):
            with np.load(self._folder / name) as part:
                index, rows = part["index"], part["rows"]
            if array is None:
                beside = self._file.with_name(f".{self._file.name}")
                shape = (self._count, *rows.shape[1:])
                array = np.lib.format.open_memmap(beside, "w+", dtype=rows.dtype, shape=shape)
            array[index] = rows
            there[index] = True
        missing = int(self._count - there.sum())
        if array is not None and beside is not None:
            array.flush()
            if missing:
                beside.unlink()
            else:
                beside.replace(self._file)
                shutil.rmtree(self._folder)
        return missing
