"""AdamW of transformers 4.2.1, which EgoVLP's numbers were made with (its spec, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LegacyAdamW(Optimizer):
    """Adam with eps added before the bias correction, then decay of the moved weight.

    torch's AdamW adds eps after the correction and decays first. With gradients near eps, as in a
    long training, the steps differ; parity: ``optimizer``, ``optimizer_wd``.

    Args:
        params: parameters, or groups of them.
        lr: step size.
        betas: decay of the two moments.
        eps: added to the root of the uncorrected second moment.
        weight_decay: share of ``lr`` by which weights shrink.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, param.grad, group)
        return loss

    def _move(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            # a tensor, as a checkpoint keeps tensors only; on the CPU, where reading it waits not
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        count, (beta1, beta2), lr = float(state["step"]), group["betas"], group["lr"]
        state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        size = lr * (1 - beta2**count) ** 0.5 / (1 - beta1**count)
        param.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)
        if group["weight_decay"]:
            param.mul_(1 - lr * group["weight_decay"])
