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
        """One matrix product for all places of the kernel, whose results are shifted and added."""
        kernel, length, width = self.kernel_size[0], x_BTC.shape[1], self.out_channels
        product = F.linear(x_BTC, self.weight.permute(2, 0, 1).flatten(0, 1))
        padded = F.pad(product, (0, 0, kernel // 2, kernel // 2))
        out = padded[:, :length, :width]
        for k in range(1, kernel):
            out = out + padded[:, k : k + length, k * width : (k + 1) * width]
        return out

    def _shifted_sum(self, x_BTC: Tensor, stride: int) -> Tensor:
        kernel, length = self.kernel_size[0], x_BTC.shape[1]
        padded = F.pad(x_BTC, (0, 0, kernel // 2, kernel // 2))
        out = padded[:, 0:length:stride] * self.weight[:, 0, 0]
        for k in range(1, kernel):
            out = torch.addcmul(out, padded[:, k : k + length : stride], self.weight[:, 0, k])
        return out


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
