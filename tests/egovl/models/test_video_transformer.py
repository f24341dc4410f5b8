from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from egovl.models.configs import TIMM_STYLE, TSF_BASE, TSF_LARGE, TSF_LARGE_336, VideoTowerConfig
from egovl.models.video_transformer import SpaceTimeTransformer

TINY = VideoTowerConfig(
    image_size=16, patch_size=8, width=32, depth=3, heads=2, num_frames=4, time_init="rand"
)
STYLES = [TINY, replace(TINY, **TIMM_STYLE), replace(TINY, gated_time=True)]


def tower(config: VideoTowerConfig = TINY) -> SpaceTimeTransformer:
    """A tower all of whose weights matter: nothing stays at a constant."""
    torch.manual_seed(0)
    model = config.build().eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.1)
    return model


def clips(frames: int = 4, count: int = 3) -> Tensor:
    return torch.randn(count, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("config", "count"),
    [(TSF_BASE, 114_169_344), (TSF_LARGE, 403_994_624), (TSF_LARGE_336, 404_322_304)],
)
def test_the_published_sizes_have_the_published_number_of_parameters(
    config: VideoTowerConfig, count: int
) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in config.build().parameters()) == count


@pytest.mark.parametrize("config", STYLES)
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_the_cls_feature_is_the_first_of_all_tokens(config: VideoTowerConfig, frames: int) -> None:
    model, video = tower(config), clips(frames)
    tokens = model.forward_tokens(video)
    assert tokens.shape == (3, 1 + frames * 4, 32)
    torch.testing.assert_close(model(video), tokens[:, 0], atol=1e-5, rtol=1e-5)


def test_permuting_the_batch_permutes_the_features() -> None:
    model, video = tower(), clips()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(video[order]), model(video)[order], atol=1e-6, rtol=1e-5)


def test_frame_order_matters_only_through_the_temporal_embedding() -> None:
    model, video = tower(), clips()
    backwards = video.flip(2)
    assert (model(backwards) - model(video)).abs().max() > 1e-3
    with torch.no_grad():
        model.temporal_embed.zero_()
    torch.testing.assert_close(model(backwards), model(video), atol=1e-5, rtol=1e-5)


def test_fewer_frames_use_the_first_temporal_rows() -> None:
    model, video = tower(), clips(frames=2)
    short = replace(TINY, num_frames=2).build().eval()
    state = model.state_dict()
    short.load_state_dict(state | {"temporal_embed": state["temporal_embed"][:, :2]})
    torch.testing.assert_close(model(video), short(video))


def test_a_fresh_tower_on_one_frame_is_a_plain_image_transformer() -> None:
    torch.manual_seed(0)
    model = replace(TINY, time_init="zeros").build().eval()
    frame = clips(frames=1)
    torch.testing.assert_close(model(frame), _image_transformer(model, frame[:, :, 0]))


def _image_transformer(model: SpaceTimeTransformer, image: Tensor) -> Tensor:
    """A per-frame ViT from the same weights, through torch's own attention module."""
    patches = nn.functional.conv2d(image, model.patch_embed.weight, stride=8).flatten(2).mT
    x = torch.cat([model.cls_token.expand(len(image), -1, -1), patches], 1) + model.pos_embed
    x = model.norm_pre(x)
    for block in model.blocks:
        attention = nn.MultiheadAttention(32, 2, batch_first=True)
        attention.in_proj_weight = block.attn_space.qkv.weight
        attention.in_proj_bias = block.attn_space.qkv.bias
        attention.out_proj = block.attn_space.proj
        normed = block.norm_space(x)
        x = x + attention(normed, normed, normed)[0]
        x = x + block.mlp(block.norm_mlp(x))
    return model.norm(x[:, 0])


def test_zero_time_init_has_no_effect_and_no_gradient_above_rounding() -> None:
    grads = {}
    for time_init in ("zeros", "rand"):
        torch.manual_seed(0)
        model = replace(TINY, time_init=time_init).build()
        before = model(clips())
        (before * torch.randn_like(before)).sum().backward()
        grads[time_init] = model.blocks[0].attn_time.qkv.weight.grad.abs().max()
        with torch.no_grad():
            model.blocks[0].norm_time.weight.mul_(3)
        changed = (model(clips()) - before).abs().max() > 1e-5
        assert changed == (time_init == "rand")
    assert grads["zeros"] < 1e-4 * grads["rand"]


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_gradient_checkpointing_changes_neither_output_nor_gradient(drop_path: float) -> None:
    results = []
    for checkpointing in (False, True):
        config = replace(TINY, gradient_checkpointing=checkpointing, drop_path=drop_path)
        model = tower(config).train()
        torch.manual_seed(5)
        out = model(clips())
        out.square().sum().backward()
        results.append((out, [p.grad for p in model.parameters()]))
    (plain, plain_grads), (saved, saved_grads) = results
    torch.testing.assert_close(saved, plain, atol=0, rtol=0)
    torch.testing.assert_close(saved_grads, plain_grads, atol=0, rtol=0)


def test_drop_path_rates_grow_linearly_from_zero() -> None:
    model = replace(TINY, drop_path=0.2).build()
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    "shape", [(1, 3, 5, 16, 16), (1, 3, 4, 16, 24), (1, 1, 4, 16, 16), (1, 3, 0, 16, 16)]
)
def test_a_clip_that_does_not_fit_is_refused_with_both_sizes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"does not fit .*1 to 4 frames and 16 x 16 pixels"):
        tower()(torch.zeros(shape))


def test_every_parameter_of_the_cls_path_receives_a_gradient() -> None:
    model = tower(replace(TINY, gated_time=True))
    model(clips()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_tower_of_one_frame_starts_as_an_image_transformer() -> None:
    torch.manual_seed(0)
    one = VideoTowerConfig(image_size=32, width=64, depth=2, heads=4, num_frames=1).build()
    for name, module in one.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.017 < float(module.weight.detach().std()) < 0.023, name
            assert not module.bias.any(), name
    two = VideoTowerConfig(image_size=32, width=64, depth=2, heads=4, num_frames=2).build()
    assert not two.blocks[0].attn_time.qkv.weight.any()
