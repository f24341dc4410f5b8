"""How much arithmetic a model asks for, and how much of the machine's a training uses."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

# Dense tensor-core peak of one card in FLOP/s at 16 bits, from NVIDIA's data sheets (SXM versions);
# the first name that a card's name contains counts.
_PEAK = {
    "V100": 125e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}

# A backward costs about twice its forward; what gradient checkpointing repeats is not counted.
TRAINING_FACTOR = 3.0


class _Flat(nn.Module):
    """Gives a tracer plain tensors where a model returns an object of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.model(*inputs)))


def _tensors(output: Any) -> list[Tensor]:
    """Every tensor in an output: in lists, and in the fields of objects."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _tensors(part)]
    fields = getattr(output, "__slots__", None) or getattr(output, "__dict__", {})
    return [value for name in fields if isinstance(value := getattr(output, name), Tensor)]


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """Multiply-adds of scaled_dot_product_attention: query x key, then weights x value."""
    query, key, value = (item.type().sizes() for item in inputs[:3])
    rows = math.prod(query[:-1])
    return rows * key[-2] * (query[-1] + value[-1])


def count_forward_flops(model: nn.Module) -> float | None:
    """Return the FLOPs (two a multiply-add) of one sample's forward; None if it cannot be traced.

    Counted with fvcore on the meta device: ``model`` has to be built there, nothing is computed.

    Args:
        model: on the meta device; its ``example_inputs()`` are the arguments for one sample.
    """
    from fvcore.nn import FlopCountAnalysis

    example_inputs: Any = getattr(model, "example_inputs", None)
    if example_inputs is None:
        return None
    with torch.device("meta"):
        inputs = example_inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore traces with torch.jit, which warns of its age
        count = FlopCountAnalysis(_Flat(model).eval(), inputs)
        count.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        return 2.0 * count.total()


def peak_flops(device: torch.device) -> float | None:
    """Return the 16-bit peak of a GPU in FLOP/s; None for a CPU or a card not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK.items() if key in name), None)


def utilisation(
    forward_flops: float | None, clips_per_sec: float, world_size: int, peak: float | None
) -> dict[str, float]:
    """Return ``tflops`` of a rank and, where its peak is known, ``mfu`` in percent.

    Args:
        forward_flops: of one clip; None gives nothing.
        clips_per_sec: over all ranks.
        world_size: ranks.
        peak: of one rank's GPU, FLOP/s.
    """
    if forward_flops is None:
        return {}
    rate = TRAINING_FACTOR * forward_flops * clips_per_sec / world_size
    found = {"tflops": round(rate / 1e12, 3)}
    if peak is not None:
        found["mfu"] = round(100 * rate / peak, 1)
    return found
