from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from egovl.engine.flops import count_forward_flops, peak_flops, utilisation
from egovl.recipe import load_recipe
from tests.architecture.source import ROOT


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def example_inputs(self) -> tuple[torch.Tensor]:
        return (torch.empty(2, 3),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_multiply_add_counts_two() -> None:
    with torch.device("meta"):
        assert count_forward_flops(Linear()) == 2 * 2 * 3 * 5
        assert count_forward_flops(nn.Linear(3, 5)) is None


@pytest.mark.parametrize("recipe", ["debug/demo.yaml", "lavila/pretrain_tsf_base.yaml"])
def test_a_dual_encoders_products_are_counted_as_torch_counts_them(recipe: str) -> None:
    with torch.device("meta"):
        model = load_recipe(Path(ROOT / "configs" / recipe)).model.build().eval()
        with FlopCounterMode(display=False) as counter:
            model(*model.example_inputs())
    counted = count_forward_flops(model)
    # fvcore also counts norms, a percent or two
    assert counted is not None
    assert counter.get_total_flops() <= counted <= 1.05 * counter.get_total_flops()


def test_utilisation_is_of_training_and_per_rank() -> None:
    assert utilisation(None, 100.0, 1, None) == {}
    assert utilisation(1e12, 100.0, 3, None) == {"tflops": 100.0}
    assert utilisation(1e12, 100.0, 3, 400e12) == {"tflops": 100.0, "mfu": 25.0}
    assert peak_flops(torch.device("cpu")) is None
