"""The narration task: what counts in the loss, what an evaluation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from egovl.data.caption_tokens import CaptionTokenizer
from egovl.data.configs import CaptionTokenizerConfig
from egovl.data.prepare.synthetic_narrator import write_tokenizer
from egovl.data.types import Batch
from egovl.models.configs import VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, PoolerConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.tasks.narration import Narration
from egovl.tasks.narration_configs import NarrationConfig

TEXTS = ["#C C opens the red box", "#C C lifts it !", "#C C closes the blue pot"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CaptionTokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    write_tokenizer(TEXTS, folder)
    return CaptionTokenizerConfig(folder=folder, context_length=16).build()


def batch_of(tokenizer: CaptionTokenizer, texts: list[str]) -> Batch:
    tokens, mask = tokenizer(texts)
    torch.manual_seed(1)
    video = torch.randint(0, 256, (len(texts), 1, 3, 2, 16, 16), dtype=torch.uint8)
    return Batch(torch.arange(len(texts)), video, tokens, mask, {})


def narrator_config(vocabulary: int) -> NarratorConfig:
    video = VideoTowerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, num_frames=2)
    decoder = GPT2Config(
        vocab_size=vocabulary,
        context_length=16,
        width=32,
        depth=2,
        heads=2,
        dropout=0,
        cross_every=1,
        gated=False,
    )
    pooler = PoolerConfig(queries=4, heads=2, head_width=16)
    return NarratorConfig(video=video, pooler=pooler, decoder=decoder, freeze_video=False)


def task_of(tokenizer: CaptionTokenizer, **options: object) -> Narration:
    writing = GenerationConfig(strategy="greedy", max_new_tokens=15)
    task = Narration(NarrationConfig(generation=writing, with_meteor=False, **options))  # type: ignore[arg-type]
    task.bind(None, tokenizer)
    return task


def test_a_narrator_learns_its_clips_by_heart(tokenizer: CaptionTokenizer) -> None:
    torch.manual_seed(0)
    model = narrator_config(tokenizer.vocab_size).build()
    task, batch = task_of(tokenizer), batch_of(tokenizer, TEXTS)
    before = task.score(task.eval_step(model.eval(), batch))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        loss = task.train_step(model, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = task.score(task.eval_step(model.eval(), batch))
    assert before["teacher_forced_perplexity"] > 20
    assert after["teacher_forced_perplexity"] < 1.1
    assert after["free_running_perplexity"] == pytest.approx(
        after["teacher_forced_perplexity"], rel=1e-3
    )
    assert after["BLEU-4"] > 99 and after["ROUGE-L"] > 99
    assert [task.words(ids) for ids in batch.tokens.tolist()][1] == "# c c lifts it !"  # type: ignore[union-attr]


def test_how_far_texts_are_padded_changes_no_loss(tokenizer: CaptionTokenizer) -> None:
    model = narrator_config(tokenizer.vocab_size).build().eval()
    batch = batch_of(tokenizer, TEXTS)
    assert batch.tokens is not None and batch.token_mask is not None
    shorter = Batch(batch.index, batch.video, batch.tokens[:, :13], batch.token_mask[:, :13], {})
    task, published = task_of(tokenizer), task_of(tokenizer, legacy_padding=True)
    torch.testing.assert_close(
        task.train_step(model, batch).loss, task.train_step(model, shorter).loss
    )
    longer_mean = published.train_step(model, batch).loss
    assert longer_mean < published.train_step(model, shorter).loss  # a mean over padding too


def test_an_exclamation_mark_is_trained_unless_as_published(tokenizer: CaptionTokenizer) -> None:
    batch = batch_of(tokenizer, ["!"])
    assert batch.tokens is not None
    assert batch.tokens[0, 1] == tokenizer.pad_id  # the published clash
    counted = []
    for legacy in (False, True):
        task = task_of(tokenizer, legacy_padding=legacy)
        _, labels = task._texts(batch)
        counted.append(int((labels != task._ignored()).sum()))
    assert counted == [2, 1]  # the mark and the end; as published the end alone


def test_a_tokenizer_that_writes_no_captions_is_refused(tmp_path: Path) -> None:
    from egovl.data.configs import CLIPBPEConfig

    with pytest.raises(ValueError, match=r"tokenizer\.name=gpt2"):
        Narration(NarrationConfig()).bind(None, CLIPBPEConfig(vocab_size=600).build())


def test_the_rendered_tokenizer_is_gpt2s_kind(tmp_path: Path) -> None:
    write_tokenizer(TEXTS, tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert vocabulary["!"] == 0 and vocabulary["<|endoftext|>"] == len(vocabulary) - 1
    tokenizer = CaptionTokenizerConfig(folder=tmp_path, context_length=16).build()
    tokens, mask = tokenizer(TEXTS)
    assert int(mask[0].sum()) <= 2 + len(TEXTS[0].split()) + 1  # words are whole tokens
    assert tokenizer.decode(tokens[0].tolist()) == TEXTS[0]
