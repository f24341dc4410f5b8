from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from egovl.models.grounder.convolution import TimeConv


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("length", [2, 4, 18])
def test_values_and_gradients_are_those_of_a_plain_convolution(
    length: int, kernel: int, stride: int, depthwise: bool
) -> None:
    torch.manual_seed(length)
    conv = TimeConv(6, 6, kernel, stride=stride, depthwise=depthwise).double()
    x = torch.randn(3, length, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(length) < torch.tensor([[length], [length // 2], [1]])
    weight = torch.randn(3, length // stride, 6, dtype=torch.float64)

    def gradients(out: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((out * weight).sum(), [x, conv.weight]))

    ours = conv(x, mask)
    plain = F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, stride, kernel // 2, 1, conv.groups)
    expected = plain.transpose(1, 2) * mask[:, ::stride, None]
    torch.testing.assert_close(ours, expected)
    for mine, theirs in zip(gradients(ours), gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs)
