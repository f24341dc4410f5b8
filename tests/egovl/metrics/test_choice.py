from __future__ import annotations

import numpy as np
import pytest
import torch

from egovl.metrics.choice import choice_accuracy


def test_accuracy_per_type_equals_a_loop_over_questions() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 4, size=(300, 5)).astype(np.float64)  # many ties
    answers, types = generator.integers(0, 5, size=300), generator.integers(1, 3, size=300)
    right = {1: [0, 0], 2: [0, 0]}
    for row, answer, kind in zip(scores.tolist(), answers, types, strict=True):
        right[kind][0] += row.index(max(row)) == answer
        right[kind][1] += 1
    expected = {
        "inter_video": 100 * right[1][0] / right[1][1],
        "intra_video": 100 * right[2][0] / right[2][1],
    }
    assert choice_accuracy(scores, answers, types) == pytest.approx(expected, abs=1e-12)


def test_the_first_of_equal_scores_is_the_choice() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    answers, types = torch.tensor([1, 1]), torch.tensor([1, 1])
    assert choice_accuracy(scores, answers, types) == {"inter_video": 50.0}


def test_the_order_of_questions_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 5, generator=generator)
    answers = torch.randint(0, 5, (40,), generator=generator)
    types = torch.randint(1, 3, (40,), generator=generator)
    order = torch.randperm(40, generator=generator)
    shuffled = choice_accuracy(scores[order], answers[order], types[order])
    assert shuffled == pytest.approx(choice_accuracy(scores, answers, types))


def test_types_are_named_by_id_and_an_absent_one_is_left_out() -> None:
    scores, answers = torch.eye(3), torch.tensor([0, 1, 0])
    assert choice_accuracy(scores, answers, torch.tensor([1, 2, 2])) == {
        "inter_video": 100.0,
        "intra_video": 50.0,
    }
    assert set(choice_accuracy(scores, answers, torch.tensor([2, 2, 2]))) == {"intra_video"}


def test_published_names_go_by_position() -> None:
    scores, answers = torch.eye(3), torch.tensor([0, 1, 0])
    both = choice_accuracy(scores, answers, torch.tensor([1, 2, 2]), legacy_names=True)
    assert both == {"Intra-video": 100.0, "Inter-video": 50.0}
    only = choice_accuracy(scores, answers, torch.tensor([2, 2, 2]), legacy_names=True)
    assert set(only) == {"Intra-video"}


def test_half_precision_scores_are_accepted() -> None:
    scores = torch.eye(2, dtype=torch.bfloat16)
    answers = torch.tensor([0, 1])
    assert choice_accuracy(scores, answers, answers + 1)["intra_video"] == 100.0


def test_broken_input_is_refused() -> None:
    scores, answers, types = torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match=r"types \[3\].*inter_video"):
        choice_accuracy(scores, answers, types)
    with pytest.raises(ValueError, match=r"answers \(2,\)"):
        choice_accuracy(scores, answers[:2], types)
    scores[1, 2] = float("nan")
    with pytest.raises(ValueError, match="1 questions have a NaN score, first 1"):
        choice_accuracy(scores, answers, torch.tensor([1, 2, 2]))
