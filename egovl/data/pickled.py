"""Lists and matrices that papers publish as pickles, read without running anything in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from egovl.convert.unpickle import load_pickle

# what numpy names in its pickles stands in a private module that has moved between releases
_reconstruct: Callable[..., object] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
_scalar: Callable[..., object] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]


def _array(_kind: object, shape: tuple[int, ...], code: bytes) -> object:
    # always a plain array, whatever class the file asks for
    return _reconstruct(np.ndarray, shape, code)


_NUMPY: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{package}.multiarray", name): build
        for package in ("core", "_core")
        for name, build in (("scalar", _scalar), ("_reconstruct", _array))
    },
}


def load_plain(path: Path) -> object:
    """What a pickle of plain lists, tuples, numbers, strings and numpy arrays holds.

    Classes of other packages become inert stubs; callers check what they get.
    """
    with path.open("rb") as file:
        return load_pickle(file, _NUMPY)
