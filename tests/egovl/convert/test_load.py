from __future__ import annotations

import pytest
import torch
from torch import nn

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import Tolerated, load_published
from egovl.convert.unpickle import CheckpointError

KEYS = KeyMap([Rename("fc.{leaf}", "{leaf}")])
STATE = {"module.fc.weight": torch.ones(2, 3, dtype=torch.float16), "module.fc.bias": torch.ones(2)}


def test_weights_arrive_without_the_wrapper_prefix_and_in_float32() -> None:
    model = nn.Linear(3, 2)
    report = load_published(model, STATE, KEYS)
    assert (report.matched, report.missing, report.unexpected) == (2, (), ())
    assert model.weight.dtype == torch.float32
    assert model.weight.eq(1).all()


def test_only_a_leading_wrapper_prefix_is_cut() -> None:
    keys = KeyMap([Rename("a.module.{leaf}", "{leaf}")])
    state = {"module.a.module.weight": torch.ones(2, 3), "a.module.bias": torch.ones(2)}
    assert load_published(nn.Linear(3, 2), state, keys).matched == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.weight": torch.ones(2, 3)}, "lacks 1 tensors: bias"),
        ({**STATE, "head.weight": torch.ones(1)}, "has no place in the model for 1 .*head.weight"),
        ({**STATE, "module.fc.bias": torch.ones(4)}, r"bias is \(4,\) .* and \(2,\) in the model"),
        ({"other": torch.ones(1)}, "nothing in this checkpoint fits the model: it has other"),
        ({}, "nothing in this checkpoint fits"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_published(nn.Linear(3, 2), state, KEYS)


def test_tolerated_names_are_reported_not_refused() -> None:
    model = nn.Linear(3, 2)
    bias = model.bias.clone()
    state = {"fc.weight": torch.ones(2, 3), "head.x": torch.ones(1), "buffer": torch.ones(1)}
    tolerated = Tolerated(missing=("bias",), unexpected=(r"head\..*",), dropped=("buffer",))
    report = load_published(model, state, KEYS, tolerated)
    assert report.missing == ("bias",)
    assert report.unexpected == ("head.x",)
    assert report.dropped == ("buffer",)
    assert str(report) == "1 tensors loaded, 1 kept their initial value, 1 unexpected, 1 dropped"
    torch.testing.assert_close(model.bias, bias)
