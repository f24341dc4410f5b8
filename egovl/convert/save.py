"""Write weights to one file: beside, then renamed, so that no reader sees a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "egovl-1"


def save_weights(out: Path, tensors: Mapping[str, Tensor], *, config: str, step: int = 0) -> None:
    """One safetensors file for sharing.

    Args:
        out: the file.
        tensors: under our names.
        config: yaml with the model's sizes under `model:`, kept in the file's header.
        step: training steps behind the weights.
    """
    described = {"config": config, "step": str(step), "format": FORMAT}
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    _write(out, lambda beside: save_file(whole, beside, metadata=described))


def save_checkpoint(out: Path, content: Mapping[str, Any]) -> None:
    """A torch file in somebody else's layout."""
    _write(out, lambda beside: torch.save(dict(content), beside))


def _write(out: Path, write: Callable[[Path], None]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        write(beside)
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
