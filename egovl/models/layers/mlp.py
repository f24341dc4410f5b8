"""Two-layer perceptron of a transformer block, and CLIP's activation."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.configs import Activation

QUICK_GELU_SLOPE = 1.702


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, width: int, hidden_width: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's GELU, x * sigmoid(1.702 x), through the fused SiLU kernel."""
    return F.silu(x * QUICK_GELU_SLOPE) * (1.0 / QUICK_GELU_SLOPE)


def squared_relu(x: Tensor) -> Tensor:
    """The square of what is above 0."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU, by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "squared_relu": squared_relu,
}
