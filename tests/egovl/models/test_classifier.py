from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from egovl.models.classifier import Classifier
from egovl.models.configs import ClassifierConfig, ImageTowerConfig, VideoTowerConfig

VIDEO = VideoTowerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, num_frames=2)
TINY = ClassifierConfig(heads={"verb": 3, "noun": 4, "action": 5}, video=VIDEO)


def built(config: ClassifierConfig = TINY) -> Classifier:
    torch.manual_seed(0)
    return config.build()


def clips(rows: int = 3) -> Tensor:
    return torch.randn(rows, 3, 2, 16, 16, generator=torch.Generator().manual_seed(1))


def test_every_label_has_its_logits_in_the_order_of_the_config() -> None:
    logits = built().eval()(clips())
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "verb": (3, 3),
        "noun": (3, 4),
        "action": (3, 5),
    }
    assert list(logits) == ["verb", "noun", "action"]


def test_heads_drop_features_independently_in_training_only() -> None:
    model = built(replace(TINY, heads={"a": 6, "b": 6}))
    model.heads["b"].load_state_dict(model.heads["a"].state_dict())
    trained = model.train()(clips())
    assert not torch.allclose(trained["a"], trained["b"])
    steady = model.eval()(clips())
    torch.testing.assert_close(steady["a"], steady["b"])


def test_heads_start_as_published_or_as_torch_draws_them() -> None:
    wide = replace(TINY, heads={"a": 4000})
    head = built(wide).heads["a"]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
    assert built(replace(wide, head_std=None)).heads["a"].bias.any()


def test_the_tower_may_see_frame_by_frame() -> None:
    frames = ImageTowerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2)
    model = built(replace(TINY, video=frames)).eval()
    torch.testing.assert_close(model(clips())["noun"], model(clips().flip(2))["noun"])


@pytest.mark.parametrize(
    ("heads", "message"),
    [({}, "one label with its classes"), ({"a": 0}, "at least 1"), ({"a.b": 2}, "without a dot")],
)
def test_heads_that_cannot_be_are_refused(heads: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(heads=heads)


def test_its_example_is_what_it_takes() -> None:
    model = built().eval()
    assert model(*model.example_inputs())["noun"].shape == (1, 4)
