from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egovl.data.transforms import normalize_video
from egovl.data.types import Batch
from egovl.engine.evaluator import Evaluation, evaluate
from egovl.metrics.retrieval import class_relevancy, mir_metrics
from egovl.models.configs import DualEncoderConfig, TextTowerConfig, VideoTowerConfig
from egovl.tasks.binding import bind
from egovl.tasks.configs import (
    ClassificationConfig,
    KeyframeConfig,
    RetrievalConfig,
    ZeroShotConfig,
)

CPU = torch.device("cpu")


class Heads(nn.Module):
    """A linear classifier on pixels: the seam that classifier models have."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({k: nn.Linear(3 * 2 * 8 * 8, n) for k, n in sizes.items()})

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        return {name: head(video.flatten(1)) for name, head in self.heads.items()}


def pixels(rows: int, views: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (rows, views, 3, 2, 8, 8)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def make_batch(video: Tensor, **labels: Sequence[float] | Tensor) -> Batch:
    rows = len(video)
    generator = torch.Generator().manual_seed(2)
    return Batch(
        index=torch.arange(rows),
        video=video,
        tokens=torch.randint(1, 20, (rows, 6), generator=generator),
        token_mask=torch.ones(rows, 6, dtype=torch.bool),
        labels={name: torch.as_tensor(value) for name, value in labels.items()},
    )


def parts(batch: Batch, size: int) -> list[Batch]:
    return [batch[i : i + size] for i in range(0, len(batch.index), size)]


def scores(task: Any, model: nn.Module, batch: Batch) -> dict[str, float]:
    return evaluate(Evaluation("x", task, parts(batch, 3)), model, CPU)


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    video = VideoTowerConfig(image_size=8, patch_size=4, width=16, depth=1, heads=2, num_frames=2)
    text = TextTowerConfig(vocab_size=20, context_length=6, width=16, heads=2, depth=1)
    return DualEncoderConfig(video=video, text=text, embed_dim=8).build().eval()


class Kitchen:
    """Relevancy and class texts of 10 clips; sentence k belongs to row SENTENCE_ROWS[k]."""

    sentence_rows = torch.tensor([4, 0, 7])
    relevancy: Any = None
    class_texts = {"action": (("a", "b"), ("c",), ("d",))}  # noqa: RUF012
    parts_of = {"action": {"verb": [1, 0, 1], "noun": [0, 1, 2]}}  # noqa: RUF012
    num_classes = {"action": 3, "verb": 3, "noun": 3}  # noqa: RUF012


def kitchen_batch() -> Batch:
    sentence = torch.full((10,), -1)
    sentence[Kitchen.sentence_rows] = torch.arange(3)
    return make_batch(
        pixels(10, 2),
        row=torch.arange(10),
        sentence=sentence,
        verb=torch.eye(2)[[0, 1] * 5],
        noun=torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]],
    )


@pytest.mark.parametrize("similarity", ["cosine", "dual_softmax"])
def test_graded_retrieval_equals_the_metric_on_embeddings_averaged_over_views(
    encoder: nn.Module, similarity: str
) -> None:
    task = bind(
        RetrievalConfig(similarity=similarity, on_empty="skip").build(),  # type: ignore[arg-type]
        Kitchen(),
        None,
    )
    batch = kitchen_batch()
    found = scores(task, encoder, batch)
    with torch.no_grad():
        rows = task.eval_step(encoder, batch)
    assert rows["video"].shape == (10, 8)
    columns = Kitchen.sentence_rows
    relevancy = class_relevancy(batch.labels["verb"], batch.labels["noun"], columns)
    assert relevancy.shape == (10, 3)
    assert (relevancy[columns, range(3)] == 1).all()
    if similarity == "cosine":
        video = nn.functional.normalize(rows["video"], dim=-1)
        expected = mir_metrics(video @ rows["text"][columns].T, relevancy, on_empty="skip")
        assert found == pytest.approx(expected)
    assert set(found) == {"mAP", "mAP_v2t", "mAP_t2v", "nDCG", "nDCG_v2t", "nDCG_t2v"}


def test_a_released_relevancy_is_used_for_the_rows_that_could_be_read(encoder: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    dataset = Kitchen()
    dataset.relevancy = torch.rand(10, 3, generator=generator).double().numpy()
    dataset.relevancy[Kitchen.sentence_rows, range(3)] = 1.0
    task = bind(RetrievalConfig(on_empty="skip").build(), dataset, None)
    batch = kitchen_batch()
    kept = torch.tensor([i for i in range(10) if i not in (4, 5)])  # row 4 holds sentence 0
    partial = batch._map(lambda tensor: tensor[kept])
    with torch.no_grad():
        rows = task.eval_step(encoder, partial)
    video = nn.functional.normalize(rows["video"], dim=-1)
    texts = rows["text"][[kept.tolist().index(row) for row in (0, 7)]]
    expected = mir_metrics(video @ texts.T, dataset.relevancy[kept][:, 1:], on_empty="skip")
    assert scores(task, encoder, partial) == pytest.approx(expected)


def test_graded_retrieval_needs_a_dataset_with_sentences() -> None:
    with pytest.raises(ValueError, match="task retrieval needs a dataset with sentence_rows"):
        bind(RetrievalConfig().build(), object(), None)


def test_pairs_are_ranked_against_each_other(encoder: nn.Module) -> None:
    task = bind(RetrievalConfig(relevance="pairs").build(), object(), None)
    found = scores(task, encoder, make_batch(pixels(10)))
    assert {"t2v_R1", "v2t_R10", "t2v_MedR", "v2t_MeanR"} <= set(found)


def letters(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = [[ord(c) % 19 + 1 for c in text.ljust(6)[:6]] for text in texts]
    return torch.tensor(rows), torch.ones(len(texts), 6, dtype=torch.bool)


def test_zero_shot_compares_with_the_mean_direction_of_a_classs_texts(encoder: nn.Module) -> None:
    config = ZeroShotConfig(templates=("{}", "x {}"), views="max")
    task = bind(config.build(), Kitchen(), letters)
    batch = make_batch(pixels(7, 3), action=[0, 1, 2, 0, 1, 2, 0])
    task.prepare(encoder, CPU)
    with torch.no_grad():
        rows = task.eval_step(encoder, batch)
        embedded = [encoder.encode_text(*letters([t, f"x {t}"])) for t in "abcd"]  # type: ignore[operator]
        texts = [torch.cat(embedded[:2]).mean(0), embedded[2].mean(0), embedded[3].mean(0)]
        classes = nn.functional.normalize(torch.stack(texts), dim=-1)
        clips = normalize_video(batch.video.flatten(0, 1), "clip")  # type: ignore[union-attr]
        views = nn.functional.normalize(encoder.encode_video(clips), dim=-1)  # type: ignore[operator]
    assert rows["scores"].shape == (7, 3)
    best = (views @ classes.T).unflatten(0, (7, 3)).amax(dim=1)
    torch.testing.assert_close(rows["scores"], best)
    assert set(scores(task, encoder, batch)) == {"top1", "top5", "mean_class"}


def test_class_texts_follow_the_weights_from_one_evaluation_to_the_next(encoder: nn.Module) -> None:
    task = bind(ZeroShotConfig().build(), Kitchen(), letters)
    task.prepare(encoder, CPU)
    first = task._class_CP.clone()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1
    scores(task, encoder, make_batch(pixels(4), action=[0, 1, 2, 0]))
    assert not torch.allclose(first, task._class_CP)  # type: ignore[arg-type]


def test_samples_with_several_labels_are_scored_by_mean_average_precision(
    encoder: nn.Module,
) -> None:
    task = bind(ZeroShotConfig(softmax=True).build(), Kitchen(), letters)
    batch = make_batch(pixels(6), action=torch.tensor([[1, 0, 1], [0, 1, 0]] * 3).float())
    assert set(scores(task, encoder, batch)) == {"mAP"}
    with pytest.raises(ValueError, match="no texts for label 'verb'"):
        bind(ZeroShotConfig(label="verb").build(), Kitchen(), letters)


LABELS = {"verb": [0, 1, 2, 0, 1, 2], "noun": [1, 1, 0, 0, 2, 2], "action": [0, 1, 2, 2, 1, 0]}


@pytest.mark.parametrize("mixing", [{}, {"mixup_alpha": 0.2, "cutmix_alpha": 0.2}])
def test_several_heads_learn_together(mixing: dict[str, float]) -> None:
    sizes = {"verb": 3, "noun": 3, "action": 3}
    config = ClassificationConfig(heads=tuple(sizes), num_classes=sizes, **mixing)  # type: ignore[arg-type]
    task, model = config.build(), Heads(sizes)
    batch = make_batch(pixels(6), **LABELS)
    before = scores(task, model, batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(40):
        torch.manual_seed(step)
        output = task.train_step(model, batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(model)
    after = scores(task, model, batch)
    assert after["verb_top1"] == after["noun_top1"] == after["action_top1"] == 100
    assert before["action_mean_class"] < 100
    assert set(output.report) == {"verb_accuracy", "noun_accuracy", "action_accuracy"}


def test_the_loss_of_several_heads_is_the_sum_of_theirs() -> None:
    batch = make_batch(pixels(6), **LABELS)
    model = Heads({"verb": 3, "noun": 3})

    def loss(*heads: str) -> float:
        task = ClassificationConfig(heads=heads).build()
        return task.train_step(model, batch).loss.item()

    assert loss("verb", "noun") == pytest.approx(loss("verb") + loss("noun"))


def test_logits_are_averaged_over_views_and_verbs_summed_over_actions() -> None:
    task = bind(ClassificationConfig().build(), Kitchen(), None)
    model = Heads({"action": 3})
    batch = make_batch(pixels(6, 3), **LABELS)
    with torch.no_grad():
        rows = task.eval_step(model, batch)
        views = [
            task.eval_step(model, make_batch(batch.video[:, k : k + 1], **LABELS))  # type: ignore[index]
            for k in range(3)
        ]
    mean = torch.stack([view["scores_action"] for view in views]).mean(0)
    torch.testing.assert_close(rows["scores_action"], mean)
    found = scores(task, model, batch)
    probabilities = rows["scores_action"].softmax(-1)
    verbs = torch.stack(
        [probabilities[:, 1], probabilities[:, 0] + probabilities[:, 2], torch.zeros(6)], dim=1
    )
    right = (verbs.argmax(1) == torch.tensor(LABELS["verb"])).float().mean()
    assert found["verb_top1"] == pytest.approx(100 * float(right))
    assert set(found) == {
        "action_top1",
        "action_top5",
        "action_mean_class",
        "verb_top1",
        "verb_top5",
        "noun_top1",
        "noun_top5",
    }


def test_a_head_that_the_model_lacks_is_named() -> None:
    batch = make_batch(pixels(2), action=[0, 1])
    with pytest.raises(ValueError, match=r"has heads \['verb'\], the task wants \['action'\]"):
        ClassificationConfig().build().train_step(Heads({"verb": 3}), batch)
    with pytest.raises(ValueError, match="num_classes lacks"):
        ClassificationConfig(mixup_alpha=0.1)


def test_keyframes_are_learned_and_scored_in_seconds() -> None:
    facts = {
        "keyframe": [0, 5, 15, 8],
        "keyframe_frame": [0, 75, 225, 120],
        "start_frame": [0] * 4,
        "end_frame": [240] * 4,
        "fps": [30.0] * 4,
    }
    task, model = KeyframeConfig(normalization="clip").build(), Heads({"keyframe": 16})
    batch = make_batch(pixels(4), **facts)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        task.train_step(model, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert scores(task, model, batch) == pytest.approx({"accuracy": 100.0, "error_sec": 0.0})


def test_places_near_the_keyframe_may_count_as_nearly_right() -> None:
    batch, model = make_batch(pixels(2), keyframe=[3, 10]), Heads({"keyframe": 16})
    narrow = KeyframeConfig(label_spread=0.01).build().train_step(model, batch).loss
    torch.testing.assert_close(narrow, KeyframeConfig().build().train_step(model, batch).loss)
    spread = KeyframeConfig(label_spread=1.5).build()
    shares = spread._spread(torch.tensor([3, 10]), torch.zeros(2, 16))
    assert shares.argmax(1).tolist() == [3, 10]
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    torch.testing.assert_close(shares[0, 2], shares[0, 4])
    with pytest.raises(ValueError, match="label_spread is 1"):
        KeyframeConfig(head="state_change", label_spread=1.0)


def test_state_changes_are_scored_in_percent() -> None:
    task, model = KeyframeConfig(head="state_change").build(), Heads({"state_change": 2})
    found = scores(task, model, make_batch(pixels(8), state_change=[0, 1] * 4))
    assert set(found) == {"accuracy"}
    with pytest.raises(ValueError, match="not 'keyframe'"):
        KeyframeConfig().build().train_step(model, make_batch(pixels(2), keyframe=[0, 1]))
