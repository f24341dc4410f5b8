"""The captioner's cache, masks and options, each against the whole computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from egovl.losses.answer_labels import PromptMarks, answer_labels
from egovl.models.captioner.captioner import Captioner
from egovl.models.captioner.configs import (
    CaptionerConfig,
    FrameEncoderConfig,
    MediaAttentionConfig,
    MPTConfig,
    ResamplerConfig,
)
from egovl.models.captioner.writing import UncachedWriter, Writer
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate

IMAGE, PAD = 5, 3
DECODER = MPTConfig(vocab_size=40, width=24, depth=4, heads=3, mlp_ratio=2, context_length=64)
TINY = CaptionerConfig(
    vision=FrameEncoderConfig(16, 8, 12, 24, 1, 2),
    resampler=ResamplerConfig(depth=1, heads=2, head_width=6, num_latents=3, max_frames=2),
    decoder=DECODER,
    media=MediaAttentionConfig(every=2, heads=2, head_width=6),
    train_all=True,
    gate_init=0.7,
)
OPTIONS = {
    "published": {},
    "no norms of queries and keys": {"qk_norm": False},
    "biases": {"bias": True},
    "learned positions": {"alibi": False},
    "clamped, scaled": {"clip_qkv": 0.5, "softmax_scale": 0.3, "logit_scale": "inv_sqrt_d_model"},
}
WRITING = GenerationConfig(
    strategy="beam", num_beams=3, max_new_tokens=6, no_repeat_ngram_size=3, eos_id=1, pad_id=1
)


def build(**changes: object) -> Captioner:
    torch.manual_seed(0)
    return replace(TINY, decoder=replace(DECODER, **changes)).build().eval()  # type: ignore[arg-type]


def prompt(*words: int, seed: int = 0) -> Tensor:
    """Random words with media marks at the given places."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(6, 40, (1, 12), generator=generator)
    tokens[0, list(words)] = IMAGE
    return tokens


def media_of(model: Captioner, clips: int) -> Tensor:
    torch.manual_seed(1)
    return model.encode_clips(torch.randn(1, clips, 2, 3, 16, 16))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("marks", [(1, 6), (), (0, 4, 8)], ids=["two", "none", "more than clips"])
@torch.no_grad()
def test_writing_with_the_cache_gives_the_ids_and_scores_of_writing_without(
    name: str, marks: tuple[int, ...]
) -> None:
    model = build(**OPTIONS[name])
    media, tokens = media_of(model, 2), prompt(*marks)
    fast = generate(Writer(model, media, IMAGE), tokens, WRITING)
    slow = generate(UncachedWriter(model, media, IMAGE), tokens, WRITING)
    assert torch.equal(fast.ids, slow.ids)
    torch.testing.assert_close(fast.scores, slow.scores)


@torch.no_grad()
def test_a_media_token_that_is_written_moves_on_to_the_next_clip() -> None:
    model = build()
    media, tokens = media_of(model, 2), prompt(1)
    step = torch.tensor([IMAGE])
    for kind in (Writer, UncachedWriter):
        writer: Any = kind(model, media, IMAGE)
        logits, state = writer.start(tokens)
        logits, _ = writer.advance(step, state)
        whole = torch.cat([tokens, step[None]], dim=1)
        clip = (whole == IMAGE).long().cumsum(1)
        hidden, _ = model.read_words(whole, whole > 0, clip, model.make_keys(media))
        torch.testing.assert_close(logits, model.logits(hidden[:, -1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["published", "learned positions"])
@torch.no_grad()
def test_a_batch_padded_on_the_left_writes_what_each_prompt_writes_alone(name: str) -> None:
    model = build(**OPTIONS[name])
    media = torch.cat([media_of(model, 2), media_of(model, 2).flip(1)])
    long, short = prompt(1, 6), prompt(0, 3, seed=1)[:, :7]
    padded = torch.full((2, 12), PAD)
    padded[0], padded[1, 5:] = long[0], short[0]
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :5] = False
    config = replace(WRITING, strategy="greedy")
    together = generate(Writer(model, media, IMAGE), padded, config, mask=mask).ids
    for row, tokens in enumerate((long, short)):
        alone = generate(Writer(model, media[row : row + 1], IMAGE), tokens, config).ids[0]
        assert torch.equal(together[row, : len(alone)], alone)


@torch.no_grad()
def test_words_before_the_first_mark_do_not_see_any_clip() -> None:
    model = build()
    clip = torch.zeros(1, 12, dtype=torch.long)
    clip[:, 6:] = 1
    tokens, seen = prompt(6), torch.ones(1, 12, dtype=torch.bool)
    with_clips, _ = model.read_words(tokens, seen, clip, model.make_keys(media_of(model, 2)))
    others, _ = model.read_words(tokens, seen, clip, model.make_keys(torch.randn(1, 2, 3, 12)))
    assert torch.equal(with_clips[:, :6], others[:, :6])
    assert not torch.allclose(with_clips[:, 6:], others[:, 6:])


@torch.no_grad()
def test_a_word_sees_its_own_clip_alone() -> None:
    model = build()
    tokens, seen = prompt(0, 6), torch.ones(1, 12, dtype=torch.bool)
    clip = (tokens == IMAGE).long().cumsum(1)
    media = media_of(model, 2)
    changed = media.clone()
    changed[:, 1] += 1
    first, _ = model.read_words(tokens, seen, clip, model.make_keys(media))
    second, _ = model.read_words(tokens, seen, clip, model.make_keys(changed))
    assert torch.equal(first[:, :6], second[:, :6])
    assert not torch.allclose(first[:, 6:], second[:, 6:])


def test_prompts_padded_on_the_wrong_side_are_refused() -> None:
    model = build()
    tokens, mask = prompt(1), torch.ones(1, 12, dtype=torch.bool)
    mask[0, -1] = False
    with pytest.raises(ValueError, match="pad them on the left"):
        Writer(model, media_of(model, 1), IMAGE).start(tokens, mask)
    with pytest.raises(ValueError, match="pad them on the right"):
        model.train()(torch.randn(1, 1, 2, 3, 16, 16), tokens, mask.flip(1), tokens == IMAGE)


def test_more_frames_than_the_table_marks_are_refused() -> None:
    with pytest.raises(ValueError, match="clips of 3 frames"):
        build().encode_clips(torch.randn(1, 1, 3, 3, 16, 16))


def test_only_the_published_parts_learn_and_bfloat16_holds_the_rest() -> None:
    model = replace(TINY, train_all=False, frozen_bf16=True).build()
    kinds = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    learned = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert learned == {"resampler", "embed", "layers"}


def test_labels_are_the_answers_of_all_items_and_the_end_of_the_text() -> None:
    answer, end, image, pad = 1, 2, 3, 4
    #             bos img  q   ans  a   end img  q  ans  b   end eos pad
    tokens = torch.tensor([[0, 3, 10, 1, 11, 2, 3, 12, 1, 13, 2, 0, 4]])
    labels = answer_labels(tokens, PromptMarks(answer, end, image, pad))
    x = -100
    assert labels.tolist() == [[x, x, x, x, 11, 2, x, x, x, 13, 2, 0, x]]


def test_autocast_keeps_distances_in_float32() -> None:
    model = build()
    tokens = prompt(1)
    args = (torch.randn(1, 1, 2, 3, 16, 16), tokens, torch.ones_like(tokens), tokens == IMAGE)
    with torch.no_grad():
        exact = model(*args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(*args)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()
