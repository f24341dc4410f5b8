"""SummaryMCQ and ShuffleMCQ equal the question-by-question way; stored clips equal their pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from egovl.data.configs import CLIPBPEConfig, EgoClipConfig, LoaderConfig
from egovl.data.datasets.long_video_configs import SpreadConfig, SummariesConfig, SummaryMCQConfig
from egovl.data.loader import EvalLoader, build_eval_loader
from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.evaluator import Evaluation, evaluate
from egovl.models.configs import DualEncoderConfig, TextTowerConfig, VideoTowerConfig
from egovl.models.hierarchical_encoder import HierarchicalEncoder
from egovl.models.hierarchy_configs import (
    AverageConfig,
    HierarchicalEncoderConfig,
    SelfAttentionConfig,
)
from egovl.tasks.binding import bind
from egovl.tasks.clip_cache import ClipEncoding, StoredClips, WithoutClips, clip_embeddings
from egovl.tasks.hierarchy_configs import HierarchicalConfig, SummaryChoiceConfig

LOADER = LoaderConfig(batch_size=4, eval_batch_size=4, num_workers=0, num_frames=2, image_size=32)
SPREAD = SpreadConfig(num_clips=4, clip_sec=1.0, margin_sec=0.0)
TOKENIZER = CLIPBPEConfig(vocab_size=1024, context_length=64)
CPU = torch.device("cpu")


def build(**options: Any) -> HierarchicalEncoder:
    encoder = DualEncoderConfig(
        video=VideoTowerConfig(
            image_size=32, width=16, depth=1, heads=2, num_frames=2, time_init="rand"
        ),
        text=TextTowerConfig(vocab_size=1024, context_length=64, width=16, heads=2, depth=1),
        embed_dim=8,
        normalize=False,
    )
    aggregator = SelfAttentionConfig(num_clips=4, depth=1, heads=2, drop_path=0.0)
    config = HierarchicalEncoderConfig(encoder=encoder, aggregator=aggregator)
    torch.manual_seed(0)
    model = dataclasses.replace(config, **options).build()
    with torch.no_grad():
        for param in model.aggregator.parameters():
            param.normal_(std=0.5)
    return model.eval()


def questions(corpus: Path, spread: SpreadConfig = SPREAD) -> Any:
    config = SummaryMCQConfig(
        annotations=corpus / "summaries" / "summarymcq_full.json",
        video_root=corpus / "videos",
        spread=spread,
    )
    return config.build()


def measured(
    corpus: Path, model: torch.nn.Module, spread: SpreadConfig = SPREAD, **options: Any
) -> dict[str, float]:
    dataset, tokenizer = questions(corpus, spread), TOKENIZER.build()
    loader = build_eval_loader(dataset, LOADER, tokenizer, rank=0, world_size=1)
    task = bind(SummaryChoiceConfig(**options).build(), dataset, tokenizer)
    return evaluate(Evaluation("summary_mcq", task, loader), model, CPU)


def stored_clips(model: torch.nn.Module, dataset: Any, file: Path) -> StoredClips:
    def encode(encoding: ClipEncoding, share: EvalLoader) -> None:
        evaluate(Evaluation("clips", encoding, share), model, CPU)

    return clip_embeddings(model, dataset, LOADER, file, "clip", encode)


def videos(dataset: Any) -> Iterator[Tensor]:
    """Clips of every video of the questions, one video at a time."""
    one = dataclasses.replace(LOADER, eval_batch_size=1)
    for batch in build_eval_loader(dataset, one, None, rank=0, world_size=1):
        assert batch.video is not None
        yield normalize_video(batch.video[0], "clip")


@pytest.mark.slow
def test_the_answers_are_those_of_one_question_after_the_other(corpus: Path) -> None:
    model, dataset, tokenizer = build(), questions(corpus), TOKENIZER.build()
    asked = dataset.questions
    right, in_order = [], []
    with torch.no_grad():
        parents = torch.cat(
            [model.aggregate(model.encode_video(clips)[None]) for clips in videos(dataset)]
        )
        for query, choices, answer in zip(asked.queries, asked.choices, asked.answers, strict=True):
            text = model.encode_text(*tokenizer([query]))
            cosines = functional.cosine_similarity(text, parents[torch.from_numpy(choices)])
            right.append(int(cosines.argmax()) == answer)
            in_order.append(cosines[answer].item())
    found = measured(corpus, model)
    assert found["summary_mcq"] == pytest.approx(100 * np.mean(right))
    assert 0 < found["shuffle_mcq"] < 100
    assert len(dataset) < 5 * len(asked.queries)  # what encoding each video once saves


@pytest.mark.slow
def test_the_mean_cannot_tell_shuffled_clips_and_scores_nothing_for_it(corpus: Path) -> None:
    encoder = build(aggregator=AverageConfig())
    found = measured(corpus, encoder)
    assert found["shuffle_mcq"] < 60  # ties up to rounding
    assert set(measured(corpus, encoder, num_shuffled=0)) == {"summary_mcq"}


@pytest.mark.slow
def test_no_wrong_choice_is_the_true_order_and_padding_stays_behind(corpus: Path) -> None:
    dataset = questions(corpus)
    task = SummaryChoiceConfig(num_shuffled=3).build()
    batch = Batch(torch.arange(40), torch.zeros(40, 4, 1), None, None, {})
    batch.labels["num_clips"] = torch.tensor([1, 2, 3, 4] * 10)
    orders = task._orders(batch)
    assert orders.shape == (40, 3, 4)
    for row, count in zip(orders.tolist(), [1, 2, 3, 4] * 10, strict=True):
        for order in row:
            assert sorted(order[:count]) == list(range(count))
            assert order[count:] == list(range(count, 4))
            assert count == 1 or order[:count] != list(range(count))
    assert torch.equal(orders, task._orders(batch))
    masked = SpreadConfig(num_clips=4, clip_sec=1.0, sec_per_clip=2.0)
    assert 0 < measured(corpus, build(), masked)["summary_mcq"] <= 100
    assert len(dataset) > 0


def test_a_model_without_an_aggregator_is_refused(corpus: Path) -> None:
    plain = build().config.build()
    with pytest.raises(ValueError, match=r"model\.name=hierarchical"):
        measured(corpus, plain)


@pytest.mark.slow
def test_stored_clips_give_the_loss_of_their_pixels(corpus: Path, tmp_path: Path) -> None:
    tokenizer = TOKENIZER.build()
    dataset = SummariesConfig(
        annotations=corpus / "summaries" / "egosummary_full.csv",
        hierarchy=corpus / "summaries" / "summary_hierarchy.json",
        video_root=corpus / "videos",
        num_narrations=4,
        spread=SPREAD,
    ).build()
    model = build(frozen="video")
    task = HierarchicalConfig().build()
    table = stored_clips(model, dataset, tmp_path / "clips.npy")
    by_pixels = next(iter(build_eval_loader(dataset, LOADER, tokenizer, rank=0, world_size=1)))
    bare = WithoutClips(dataset)
    stored = next(iter(build_eval_loader(bare, LOADER, tokenizer, rank=0, world_size=1)))
    assert stored.video is None and stored.narrations is not None
    task.use_clips(table)
    losses = [task.train_step(model, batch).loss.item() for batch in (by_pixels, stored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with torch.no_grad():  # the file is found again, nothing is encoded anew
        model.video_projection.weight.zero_()  # type: ignore[union-attr, operator]
    again = stored_clips(model, dataset, tmp_path / "clips.npy")
    assert torch.equal(again.rows(torch.tensor([3])), table.rows(torch.tensor([3])))


def test_a_tower_that_learns_is_not_stored(corpus: Path, tmp_path: Path) -> None:
    clips = EgoClipConfig(annotations=corpus / "egoclip.csv", video_root=corpus / "videos").build()
    with pytest.raises(ValueError, match=r"set model\.frozen=video"):
        stored_clips(build(), clips, tmp_path / "clips.npy")
