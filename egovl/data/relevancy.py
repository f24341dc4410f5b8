"""Relevancy of sentences to videos: the released matrix, or rows made from the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from egovl.data.pickled import load_plain


def load_relevancy(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A matrix ``[V, S]``, memory mapped from npy; a pickle is read without running it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another shape, or no matrix of numbers 0 .. 1.
    """
    if not path.is_file():
        raise FileNotFoundError(f"relevancy {path} does not exist")
    matrix = np.load(path, mmap_mode="r") if path.suffix == ".npy" else load_plain(path)
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind != "f":
        raise ValueError(f"{path} holds no matrix of floating point numbers")
    if matrix.shape != shape:
        raise ValueError(
            f"{path} is {matrix.shape}, the annotations have {shape[0]} videos and {shape[1]} "
            "sentences; it belongs to other annotation files"
        )
    return matrix


def overlap(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one class set with several, ``[classes]`` and ``[S, classes]``."""
    shared = others @ own
    return shared / (own.sum() + others.sum(axis=1) - shared)
