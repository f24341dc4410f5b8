from __future__ import annotations

import pytest
import torch

from egovl.convert import clip, egovlp, lavila
from egovl.convert.keys import KeyMap, Rename, apply_layout


def test_a_map_reads_in_both_directions() -> None:
    keys = KeyMap(
        [Rename("h.{i}.ln.{leaf}", "blocks.{i}.norm.{leaf}"), Rename("t.{rest}", "{rest}")]
    )
    assert keys.to_ours("h.12.ln.bias") == ("blocks.12.norm.bias", "same")
    assert keys.to_published("blocks.12.norm.bias") == "h.12.ln.bias"
    assert keys.to_ours("h.x.ln.bias") is None
    assert keys.to_ours("hh.1.ln.bias") is None


def test_layouts_come_back_to_the_published_shape() -> None:
    keys = KeyMap(
        [
            Rename("proj", "p.weight", "transpose"),
            Rename("cls", "cls_token", "leading_ones"),
            Rename("s", "gate", "scalar"),
        ]
    )
    matrix, vector, scalar = torch.randn(2, 3), torch.randn(5), torch.tensor(2.0)
    ours = {
        "p.weight": apply_layout(matrix, "transpose", 2),
        "cls_token": apply_layout(vector, "leading_ones", 3),
        "gate": apply_layout(scalar, "scalar", 1),
    }
    assert [tuple(t.shape) for t in ours.values()] == [(3, 2), (1, 1, 5), (1,)]
    published = keys.publish(ours)
    torch.testing.assert_close(published["proj"], matrix)
    torch.testing.assert_close(published["cls"], vector)
    torch.testing.assert_close(published["s"], scalar)


def test_a_name_without_a_published_one_is_refused() -> None:
    with pytest.raises(KeyError, match="stray"):
        KeyMap([Rename("a", "b")]).publish({"stray": torch.ones(1)})


@pytest.mark.parametrize("keys", [m.DUAL_ENCODER_KEYS for m in (clip, lavila, egovlp)])
def test_no_two_lines_of_a_released_map_make_the_same_name(keys: KeyMap) -> None:
    for side in ("published", "ours"):
        names = [getattr(rename, side) for rename in keys.renames]
        assert len(names) == len(set(names))
