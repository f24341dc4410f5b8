from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from egovl.models.configs import ImageTowerConfig
from egovl.models.image_transformer import ImageTransformer

TINY = ImageTowerConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2)


def tower(config: ImageTowerConfig = TINY) -> ImageTransformer:
    torch.manual_seed(0)
    return config.build()


def clips(frames: int = 3) -> Tensor:
    return torch.randn(2, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_clip_is_the_mean_of_its_frames_alone() -> None:
    model, video = tower(), clips()
    alone = torch.stack([model(video[:, :, i : i + 1]) for i in range(3)]).mean(0)
    torch.testing.assert_close(model(video), alone)
    torch.testing.assert_close(model(video.flip(2)), model(video))


def test_tokens_are_patches_frame_by_frame_without_cls() -> None:
    model, video = tower(), clips()
    tokens = model.forward_tokens(video)
    assert tokens.shape == (2, 3 * 4, 16)
    torch.testing.assert_close(tokens[:, 4:8], model.forward_tokens(video[:, :, 1:2]))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    video, found = clips(), []
    for checkpointed in (False, True):
        model = tower(replace(TINY, gradient_checkpointing=checkpointed)).train()
        model(video).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(found[0], found[1])


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 1, 24, 24\].*16 x 16"):
        tower()(torch.zeros(2, 3, 1, 24, 24))
