from __future__ import annotations

import torch

from egovl.models.layers.drop_path import DropPath


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(4000, 3, 2)).flatten(1)
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (out == out[:, :1]).all()
    assert abs(out.mean().item() - 1) < 0.05


def test_drop_path_does_nothing_in_evaluation() -> None:
    x = torch.randn(4, 2)
    assert DropPath(0.9).eval()(x) is x
