from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from egovl.data.types import Batch
from egovl.losses.configs import AdaptiveMaxMarginConfig, MaxMarginConfig
from egovl.models.configs import DualEncoderConfig, TextTowerConfig, VideoTowerConfig
from egovl.tasks.configs import ContrastiveConfig, MultipleChoiceConfig


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    video = VideoTowerConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_frames=2)
    text = TextTowerConfig(vocab_size=20, context_length=6, width=16, heads=2, depth=1)
    return DualEncoderConfig(video=video, text=text, embed_dim=8).build()


def batch(rows: int, clips: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (rows, clips, 3, 2, 16, 16)
    return Batch(
        index=torch.arange(rows),
        video=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        tokens=torch.randint(1, 20, (rows, 6), generator=generator),
        token_mask=torch.ones(rows, 6, dtype=torch.bool),
        labels={"answer": torch.zeros(rows, dtype=torch.long), "type": torch.ones(rows).long()},
    )


def test_the_contrastive_loss_falls_on_a_batch_that_is_seen_again(model: nn.Module) -> None:
    task = ContrastiveConfig().build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        output = task.train_step(model, batch(6, 1))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(model)
        losses.append(output.loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_scale_is_clamped_after_a_step(model: nn.Module) -> None:
    task = ContrastiveConfig(max_logit_scale=50.0).build()
    for start, expected in ((9.0, math.log(50.0)), (-3.0, 0.0)):
        nn.init.constant_(model.logit_scale, start)  # type: ignore[arg-type]
        task.after_step(model)
        assert model.logit_scale.item() == pytest.approx(expected)  # type: ignore[operator]


@pytest.mark.parametrize("similarity", ["cosine", "legacy_dot"])
def test_choices_are_scored_one_by_one_against_their_own_query(
    model: nn.Module, similarity: str
) -> None:
    task = MultipleChoiceConfig(similarity=similarity).build()  # type: ignore[arg-type]
    model.eval()
    whole = batch(3, 5)
    with torch.no_grad():
        together = task.eval_step(model, whole)["scores"]
        alone = torch.cat([task.eval_step(model, whole[i : i + 1])["scores"] for i in range(3)])
    assert together.shape == (3, 5)
    torch.testing.assert_close(together, alone)


def test_only_the_legacy_score_depends_on_the_length_of_the_image_feature() -> None:
    torch.manual_seed(0)
    video = VideoTowerConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, num_frames=2)
    text = TextTowerConfig(vocab_size=20, context_length=6, width=16, heads=2, depth=1)
    free = DualEncoderConfig(video=video, text=text, embed_dim=8, normalize=False).build().eval()
    with torch.no_grad():
        cosine = MultipleChoiceConfig().build().eval_step(free, batch(2, 5))["scores"]
        dot = (
            MultipleChoiceConfig(similarity="legacy_dot")
            .build()
            .eval_step(free, batch(2, 5))["scores"]
        )
    assert cosine.abs().max() <= 1 + 1e-6
    assert not torch.allclose(cosine, dot)


class Positions:
    """A side table: each sample's own number."""

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return index.float() / 10


class Annotated:
    """A dataset with a side table."""

    side_tables = {"relevancy": Positions()}  # noqa: RUF012


def test_a_loss_takes_what_it_needs_from_a_side_table_by_sample_id(model: nn.Module) -> None:
    task = ContrastiveConfig(loss=AdaptiveMaxMarginConfig()).build()
    rows = batch(4, 1)
    rows.index = torch.tensor([3, 1, 0, 2])
    with pytest.raises(ValueError, match=r"adaptive_max_margin needs 'relevancy'.*answer"):
        task.train_step(model, rows)
    task.bind(Annotated(), None)
    by_table = task.train_step(model, rows).loss
    rows.labels["relevancy"] = rows.index.float() / 10
    labelled = ContrastiveConfig(loss=AdaptiveMaxMarginConfig()).build()
    torch.testing.assert_close(labelled.train_step(model, rows).loss, by_table)
    rows.labels["relevancy"] = torch.zeros(4)
    torch.testing.assert_close(task.train_step(model, rows).loss, by_table)  # tables go first
    assert not torch.isclose(labelled.train_step(model, rows).loss, by_table)


def test_a_loss_without_temperature_leaves_the_learned_one_a_zero_gradient(
    model: nn.Module,
) -> None:
    rows = batch(4, 1)
    ContrastiveConfig(loss=MaxMarginConfig()).build().train_step(model, rows).loss.backward()
    assert model.logit_scale.grad.item() == 0  # type: ignore[union-attr]
    assert all(param.grad is not None for param in model.parameters())
