"""What the metrics take: tensors or arrays, turned into arrays here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]


def to_numpy(x: Array) -> NDArray[Any]:
    """A tensor's values as an array; an array as it is."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach().cpu()
    # numpy has no bfloat16
    return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()


def refuse_nan(values: NDArray[Any], what: str) -> None:
    """Raise ValueError when a row of ``values`` holds a NaN, naming the first."""
    broken = np.isnan(values).reshape(len(values), -1).any(axis=1)
    if broken.any():
        raise ValueError(f"{broken.sum()} {what} have a NaN score, first {broken.argmax()}")
