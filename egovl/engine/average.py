"""A moving average of a model's weights, kept beside it and saved with it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Weights that follow the model's slowly: ``decay`` of themselves after each step.

    Attributes:
        tensors: every entry of the model's state dict; buffers are copies of the latest.
    """

    def __init__(
        self, model: nn.Module, decay: float, start: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin at the model's weights as they are, or at ``start``."""
        self.decay = decay
        self._params = {name for name, _ in model.named_parameters()}
        self.tensors = {name: tensor.detach().clone() for name, tensor in _state(model).items()}
        if start is not None:
            self.reset(start)

    @torch.no_grad()
    def reset(self, start: Mapping[str, Tensor]) -> None:
        """Set every tensor to that of ``start``."""
        for name, tensor in self.tensors.items():
            tensor.copy_(start[name])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow the model after a step."""
        state = _state(model)
        averaged = [name for name in self.tensors if name in self._params]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage]
            [self.tensors[name] for name in averaged],
            [state[name] for name in averaged],
            1 - self.decay,
        )
        for name in self.tensors.keys() - self._params:
            self.tensors[name].copy_(state[name])

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Generator[None]:
        """Let the model have the average as its weights inside the block."""
        state = _state(model)
        kept = {name: tensor.clone() for name, tensor in state.items()}
        self._write(state, self.tensors)
        try:
            yield
        finally:
            self._write(state, kept)

    @staticmethod
    @torch.no_grad()
    def _write(state: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
        for name, tensor in state.items():
            tensor.copy_(source[name])


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, not copies."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}
