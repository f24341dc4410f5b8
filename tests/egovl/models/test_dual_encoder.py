from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from egovl.models.configs import (
    DualEncoderConfig,
    HFTextConfig,
    Projection,
    TextTowerConfig,
    VideoTowerConfig,
)

VIDEO = VideoTowerConfig(
    image_size=16, patch_size=8, width=32, depth=2, heads=2, num_frames=2, time_init="rand"
)
CLIP_TEXT = TextTowerConfig(vocab_size=50, context_length=10, width=24, heads=2, depth=1)
BERT_TEXT = HFTextConfig(
    vocab_size=50, context_length=10, width=24, heads=2, depth=2, hidden_width=48
)
TINY = DualEncoderConfig(video=VIDEO, text=CLIP_TEXT, embed_dim=16)

CLIPS = torch.randn(3, 3, 2, 16, 16, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[5, 6, 49, 0], [7, 8, 9, 49], [3, 49, 0, 0]])
MASK = TOKENS != 0


@pytest.mark.parametrize("text", [CLIP_TEXT, BERT_TEXT])
@pytest.mark.parametrize(("projection", "width"), [("linear", 16), ("frozen_in_time", 16)])
def test_both_sides_meet_in_one_space_with_unit_length(
    text: TextTowerConfig | HFTextConfig, projection: Projection, width: int
) -> None:
    model = replace(TINY, text=text, projection=projection).build()
    out = model(CLIPS, TOKENS, MASK)
    assert out.video.shape == out.text.shape == (3, width)
    for side in (out.video, out.text):
        torch.testing.assert_close(side.norm(dim=-1), torch.ones(3))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07)


def test_identity_projection_keeps_the_towers_features() -> None:
    model = replace(TINY, projection="identity", normalize=False).build().eval()
    torch.testing.assert_close(model.encode_video(CLIPS), model.video(CLIPS))
    torch.testing.assert_close(model.encode_text(TOKENS), model.text(TOKENS))


def test_frozen_in_time_projection_has_its_relu_on_the_text_side_only() -> None:
    model = replace(TINY, projection="frozen_in_time").build()
    kinds = [[type(m) for m in p] for p in (model.video_projection, model.text_projection)]
    assert kinds == [[nn.Linear], [nn.ReLU, nn.Linear]]


def test_a_frozen_temperature_gets_no_gradient() -> None:
    model = replace(TINY, learn_temperature=False, temperature_init=0.05).build()
    assert model.logit_scale.item() == pytest.approx(math.log(20))
    assert not model.logit_scale.requires_grad


def test_padding_does_not_change_a_distilbert_embedding() -> None:
    model = replace(TINY, text=BERT_TEXT).build().eval()
    alone = model.encode_text(TOKENS[2:, :2], MASK[2:, :2])
    torch.testing.assert_close(model.encode_text(TOKENS, MASK)[2:], alone, atol=1e-6, rtol=1e-5)


def test_token_embeddings_begin_with_the_text_embedding_of_distilbert() -> None:
    model = replace(TINY, text=BERT_TEXT, projection="frozen_in_time", normalize=False)
    built = model.build().eval()
    tokens = built.encode_text_tokens(TOKENS, MASK)
    assert tokens.shape == (3, 4, 16)
    torch.testing.assert_close(tokens[:, 0], built.encode_text(TOKENS, MASK))


def test_a_distilbert_folder_gives_sizes_and_weights(tmp_path: Path) -> None:
    source = BERT_TEXT.build()
    source.model.save_pretrained(tmp_path)
    loaded = HFTextConfig(folder=tmp_path).build()
    assert loaded.width == 24
    torch.testing.assert_close(
        loaded.eval()(TOKENS, MASK), source.eval()(TOKENS, MASK), atol=0, rtol=0
    )


def test_a_missing_distilbert_folder_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"download distilbert-base-uncased"):
        HFTextConfig(folder=tmp_path / "none").build()


def test_embeddings_are_float32_of_unit_length_under_autocast() -> None:
    model = TINY.build()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(CLIPS, TOKENS)
    assert out.video.dtype == out.text.dtype == torch.float32
    torch.testing.assert_close(out.video.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(out.video, model.encode_video(CLIPS), atol=0.03, rtol=0)


def test_no_parameter_is_a_scalar_so_that_fsdp_can_shard_the_model() -> None:
    model = replace(TINY, video=replace(VIDEO, gated_time=True)).build()
    assert [name for name, param in model.named_parameters() if param.dim() == 0] == []
