"""Convolution over time of sequences whose padding stays zero.

Letters: B batch, T places in time, C D channels, K kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeConv(nn.Conv1d):
    """Convolution of [B, T, C] with zeros outside; masked places of the output are zero.

    The input is not masked (GroundNLQ spec 2.2). Weights lie as in `torch.nn.Conv1d`.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        bias: bool = True,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}: it must be odd, so that a place keeps its own")
        super().__init__(
            in_width,
            out_width,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=in_width if depthwise else 1,
            bias=bias,
        )
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:  # pyright: ignore
        """Return [B, T / stride, D].

        Raises:
            ValueError: the stride does not divide the length.
        """
        stride, groups = self.stride[0], self.groups
        require_divisible(x_BTC.shape[1], stride)
        if groups == 1 and stride == 1:
            out = self._product(x_BTC)
        elif groups == self.in_channels == self.out_channels:
            out = self._shifted_sum(x_BTC, stride)
        else:
            padding = self.kernel_size[0] // 2
            x_BCT = x_BTC.transpose(1, 2)
            out = F.conv1d(x_BCT, self.weight, None, stride, padding, 1, groups).transpose(1, 2)
        if self.bias is not None:
            out = out + self.bias
        return out * mask_BT[:, ::stride, None].to(out.dtype)

    def _product(self, x_BTC: Tensor) -> Tensor:
        """One matrix product for all places of the kernel, whose results are shifted and added.

        It is cut by `split` and shifted by padding: the backward of a slice fills a tensor of the
        full size with zeros.
        """
        product = F.linear(x_BTC, self.weight.permute(2, 0, 1).flatten(0, 1))
        parts = product.split(self.out_channels, dim=-1)
        half = len(parts) // 2
        out = shift_in_time(parts[0], half)
        for k, part in enumerate(parts[1:], 1):
            out = out + shift_in_time(part, half - k)
        return out

    def _shifted_sum(self, x_BTC: Tensor, stride: int) -> Tensor:
        weights, length = self.weight[:, 0].unbind(-1), x_BTC.shape[1]
        half = len(weights) // 2
        if stride == 1:
            places = [shift_in_time(x_BTC, half - k) for k in range(len(weights))]
        else:
            padded = F.pad(x_BTC, (0, 0, half, half))
            places = [padded[:, k : k + length : stride] for k in range(len(weights))]
        out = places[0] * weights[0]
        for place, weight in zip(places[1:], weights[1:], strict=True):
            out = torch.addcmul(out, place, weight)
        return out


def shift_in_time(x_BTC: Tensor, places: int) -> Tensor:
    """The sequence so many places later, or earlier where it is negative; zeros come in."""
    if places == 0:
        return x_BTC
    if abs(places) >= x_BTC.shape[1]:
        return torch.zeros_like(x_BTC)
    return F.pad(x_BTC, (0, 0, places, -places))


def require_divisible(length: int, stride: int) -> None:
    """Refuse a length that a level cannot be made of.

    Raises:
        ValueError: naming both.
    """
    if length % stride:
        raise ValueError(
            f"length {length} is no multiple of the stride {stride}: pad it to "
            f"{length + -length % stride}"
        )


def pool_over_time(x_BTC: Tensor, stride: int) -> Tensor:
    """Largest value around every `stride`-th place, [B, T / stride, C]."""
    kernel, padding = stride + 1, (stride + 1) // 2
    return F.max_pool1d(x_BTC.transpose(1, 2), kernel, stride, padding).transpose(1, 2)
