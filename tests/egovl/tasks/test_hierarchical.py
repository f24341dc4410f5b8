"""Every ablation of HierVL from its yaml: what it compares and what learns from it.

The yamls of configs/hiervl are read, made small, and trained on batches of the rendered corpus.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from egovl.data.types import Batch
from egovl.engine.task import StepOutput
from egovl.losses.hierarchical import mil_nce
from egovl.losses.similarity import cosine_matrix
from egovl.models.hierarchical_encoder import ParentOutput
from egovl.recipe import Recipe, load_recipe
from egovl.streams import TrainStreams
from egovl.tasks.binding import bind
from tests.architecture.source import ROOT

SMALL_MODEL = (
    "{name: hierarchical, encoder: {video: {image_size: 32, patch_size: 16, width: 16, depth: 1, "
    "heads: 2, num_frames: 2, time_init: rand}, text: {name: clip_text, vocab_size: 1024, "
    "context_length: 64, width: 16, heads: 2, depth: 1}, embed_dim: 8, normalize: false}"
)
SPREAD = "{num_clips: 4, clip_sec: 1.0, margin_sec: 0.0}"
LOADER = "{batch_size: %d, num_workers: 0, num_frames: 2, image_size: 32}"


class Ablation:
    """A yaml of configs/hiervl in small, its task, model and batches."""

    def __init__(self, name: str, corpus: Path) -> None:
        self.recipe = small(name, corpus)
        assert self.recipe.train is not None
        tokenizer = self.recipe.tokenizer.build()
        streams = TrainStreams(self.recipe, self.recipe.train, tokenizer)
        self.steps_per_epoch = streams.steps_per_epoch()
        self.task = bind(self.recipe.train.task.build(), streams.dataset, tokenizer)
        self._batches = streams.batches(0)
        self.seen: list[Batch] = []

    def model(self) -> Any:
        torch.manual_seed(0)
        return self.recipe.model.build()

    def take(self, count: int) -> list[Batch]:
        self.seen += [next(self._batches) for _ in range(count)]
        return self.seen[-count:]

    def parent(self) -> Batch:
        return next(batch for batch in self.take(6) if batch.narrations is not None)

    def step(self, batch: Batch) -> tuple[StepOutput, dict[str, Tensor | None]]:
        """The step's output, and the gradient of every parameter."""
        model = self.model()
        output = self.task.train_step(model, batch)
        output.loss.backward()
        return output, {name: param.grad for name, param in model.named_parameters()}

    def loss(self, batch: Batch) -> float:
        return self.task.train_step(self.model(), batch).loss.item()

    @torch.no_grad()
    def family(self, batch: Batch) -> ParentOutput:
        """Embeddings of videos and summaries, and of what they are made of."""
        return self.model()(parents=self.task._inputs(batch))


def small(name: str, corpus: Path) -> Recipe:
    file = ROOT / f"configs/hiervl/{name}.yaml"
    published = load_recipe(file)
    assert published.train is not None
    aggregator = published.model.aggregator.name
    sizes = "num_clips: 4, depth: 1, heads: 2, drop_path: 0.0"
    if aggregator == "average":
        described = "{name: average}"
    else:
        described = f"{{name: self_attention, {sizes}}}"
    words = [
        f"model={SMALL_MODEL}, aggregator: {described}}}",
        "tokenizer={name: clip_bpe, vocab_size: 1024, context_length: 64}",
        "init=null",
        "evaluate={}",
        f"train.loader={LOADER % 8}",
        f"train.dataset.annotations={corpus}/egoclip.csv",
        f"train.dataset.video_root={corpus}/videos",
    ]
    if published.train.parents is not None:
        words += [
            f"train.parents.loader={LOADER % 4}",
            f"train.parents.dataset.annotations={corpus}/summaries/egosummary_full.csv",
            f"train.parents.dataset.hierarchy={corpus}/summaries/summary_hierarchy.json",
            f"train.parents.dataset.video_root={corpus}/videos",
            "train.parents.dataset.num_narrations=4",
            f"train.parents.dataset.spread={SPREAD}",
        ]
    if name == "without_hier":
        words.append(f"train.dataset.summaries={corpus}/summaries/egosummary_full.csv")
    return load_recipe(file, words)


def replaced(batch: Batch, **fields: Any) -> Batch:
    return dataclasses.replace(batch, **fields)


def mixed(tokens: Tensor) -> Tensor:
    """The same tokens with the samples' texts exchanged."""
    return tokens.roll(1, dims=0)


def text_gradient(gradients: dict[str, Tensor | None], tokens: Tensor, others: Tensor) -> float:
    """Largest gradient of the word vectors that stand in ``tokens`` alone."""
    grad = gradients["text.token_embed.weight"]
    alone = sorted(set(tokens.flatten().tolist()) - set(others.flatten().tolist()))
    assert alone, "the texts have no word of their own"
    return 0.0 if grad is None else grad[alone].abs().max().item()


def aggregator_learns(gradients: dict[str, Tensor | None]) -> bool:
    own = [grad for name, grad in gradients.items() if name.startswith("aggregator.")]
    return any(grad is not None and grad.abs().max() > 0 for grad in own)


def test_the_default_compares_both_aggregates_with_the_summary(corpus: Path) -> None:
    own = Ablation("pretrain", corpus)
    kinds = [batch.narrations is not None for batch in own.take(12)]
    assert kinds == ([False] * 5 + [True]) * 2
    child, parent = own.seen[0], own.seen[5]
    output, gradients = own.step(parent)
    assert {"text_summary", "video_summary"} <= set(output.report)
    assert "text_video" not in output.report
    parts = output.report["text_summary"] + output.report["video_summary"]
    assert output.loss.item() == pytest.approx(parts.item())
    assert parent.tokens is not None and parent.narrations is not None
    assert text_gradient(gradients, parent.tokens, parent.narrations) > 0
    assert text_gradient(gradients, parent.narrations, parent.tokens) > 0
    assert aggregator_learns(gradients)
    assert own.loss(replaced(parent, tokens=mixed(parent.tokens))) != output.loss.item()
    _, gradients = own.step(child)
    assert not aggregator_learns(gradients)


def test_the_mean_has_nothing_to_learn_and_sees_no_order(corpus: Path) -> None:
    own, default = Ablation("pretrain_average", corpus), Ablation("pretrain", corpus)
    parent = own.parent()
    assert parent.video is not None
    backwards = replaced(parent, video=parent.video.flip(1))
    assert own.loss(backwards) == pytest.approx(own.loss(parent), abs=1e-5)
    _, gradients = own.step(parent)
    assert not [name for name in gradients if name.startswith("aggregator.")]
    mean, learned = own.family(parent), default.family(parent)
    for kind, children in (("video_parent", "clips"), ("text_parent", "narrations")):
        torch.testing.assert_close(getattr(mean, kind), getattr(mean, children).mean(1))
        torch.testing.assert_close(getattr(mean, children), getattr(learned, children))
        assert not torch.allclose(getattr(mean, kind), getattr(learned, kind), atol=1e-2)
    # the published weights start so small that order hardly shows; make it show
    model = default.model()
    with torch.no_grad():
        for param in model.aggregator.parameters():
            param.normal_(std=0.5)
    losses = [default.task.train_step(model, x).loss.item() for x in (parent, backwards)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_without_joint_there_are_no_steps_on_clips(corpus: Path) -> None:
    own, default = Ablation("without_joint", corpus), Ablation("pretrain", corpus)
    assert all(batch.narrations is not None for batch in own.take(8))
    output, _ = own.step(own.seen[0])
    assert "accuracy" not in output.report  # of clips with narrations
    # the same parents' steps as the default's, one after the other
    parents = [batch for batch in default.take(12) if batch.narrations is not None]
    assert [b.index.tolist() for b in own.seen[:2]] == [b.index.tolist() for b in parents]
    assert own.loss(own.seen[0]) == pytest.approx(default.loss(parents[0]))
    assert own.steps_per_epoch == 85 // 4
    starts = [
        load_recipe(ROOT / f"configs/hiervl/{x}.yaml").init for x in ("without_joint", "pretrain")
    ]
    assert [start.origin for start in starts if start] == ["egovlp", "timm"]


def test_without_hier_summaries_are_clips_with_narrations(corpus: Path) -> None:
    own, default = Ablation("without_hier", corpus), Ablation("pretrain", corpus)
    batches = own.take(40)
    assert all(batch.narrations is None for batch in batches)
    assert all(batch.video is not None and batch.video.shape[1] == 1 for batch in batches)
    rows = torch.cat([batch.index for batch in batches])
    summaries = int((rows >= 100).sum())  # behind the 100 clips
    assert summaries > 0.25 * len(rows)
    with_summary = next(batch for batch in batches if (batch.index >= 100).any())
    output, gradients = own.step(with_summary)
    assert "parent_loss" not in output.report
    assert with_summary.tokens is not None
    is_summary = with_summary.index >= 100
    told, others = with_summary.tokens[is_summary], with_summary.tokens[~is_summary]
    assert text_gradient(gradients, told, others) > 0
    assert not aggregator_learns(gradients)
    # a step of the default's on clips, of which none tells a summary
    assert output.loss.item() == pytest.approx(default.loss(with_summary))
    clips = [batch for batch in default.take(18) if batch.narrations is None]
    assert len(clips) == 15 and all((batch.index < 100).all() for batch in clips)


def test_without_summ_the_summary_changes_nothing(corpus: Path) -> None:
    own, default = Ablation("without_summ", corpus), Ablation("pretrain", corpus)
    parent = own.parent()
    assert parent.tokens is not None and parent.narrations is not None
    other_summary = replaced(parent, tokens=mixed(parent.tokens))
    output, gradients = own.step(parent)
    assert {"text_video"} == set(output.report) - {"parent_loss"}
    assert own.loss(other_summary) == output.loss.item()
    assert default.loss(other_summary) != default.loss(parent)
    assert text_gradient(gradients, parent.tokens, parent.narrations) == 0
    assert text_gradient(gradients, parent.narrations, parent.tokens) > 0
    other_narrations = replaced(parent, narrations=mixed(parent.narrations))
    assert own.loss(other_narrations) != output.loss.item()


def test_without_summ_narr_the_narrations_change_nothing(corpus: Path) -> None:
    own, default = Ablation("without_summ_narr", corpus), Ablation("pretrain", corpus)
    parent = own.parent()
    assert parent.tokens is not None and parent.narrations is not None
    other_narrations = replaced(parent, narrations=mixed(parent.narrations))
    output, gradients = own.step(parent)
    assert {"video_summary"} == set(output.report) - {"parent_loss"}
    assert own.loss(other_narrations) == output.loss.item()
    assert default.loss(other_narrations) != default.loss(parent)
    assert text_gradient(gradients, parent.narrations, parent.tokens) == 0
    assert text_gradient(gradients, parent.tokens, parent.narrations) > 0
    # what is left is the default's term
    both = default.task.train_step(default.model(), parent).report
    assert output.loss.item() == pytest.approx(both["video_summary"].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "compared"),
    [
        ("intra", (("video_parent", "clips"), ("text_parent", "narrations"))),
        ("inter", (("video_parent", "narrations"), ("text_parent", "clips"))),
    ],
)
def test_losses_between_parents_and_children_are_added_where_asked(
    kind: str, compared: tuple[tuple[str, str], ...], corpus: Path
) -> None:
    own = Ablation("pretrain", corpus)
    parent = own.parent()
    plain = own.task.train_step(own.model(), parent)
    # with all children drawn, the order of the draw counts for nothing
    options = {kind: True, "num_positives": 4}
    children = dataclasses.replace(own.task.config.child_nce, **options)
    asked = dataclasses.replace(own.task.config, child_nce=children).build()
    output = asked.train_step(own.model(), parent)
    family, expected = own.family(parent), 0.0
    for rows, columns in compared:
        below = getattr(family, columns).flatten(0, 1)
        expected += mil_nce(cosine_matrix(getattr(family, rows), below), 4).item()
    assert output.report[f"mil_nce_{kind}"].item() == pytest.approx(expected, rel=1e-4)
    assert set(output.report) == {*plain.report, f"mil_nce_{kind}"}
    assert output.loss.item() == pytest.approx(plain.loss.item() + expected, rel=1e-4)


def test_parents_embedded_in_parts_give_the_gradient_of_the_whole(corpus: Path) -> None:
    from egovl.engine.chunked import backward_in_chunks

    own = Ablation("pretrain", corpus)
    parent = own.parent()
    _, whole = own.step(parent)
    model = own.model()
    backward_in_chunks(
        own.task, model, parent, 2, lambda: torch.autocast("cpu", enabled=False), lambda x: x
    )
    for name, param in model.named_parameters():
        if whole[name] is not None:
            torch.testing.assert_close(param.grad, whole[name], rtol=1e-3, atol=1e-5)
