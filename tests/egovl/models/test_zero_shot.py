from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from egovl.models.zero_shot import class_embeddings, class_prompts, class_scores, pool_views


def test_every_narration_of_a_class_goes_into_every_template() -> None:
    texts, owners = class_prompts(["cut", ["open", "open up"]], ["#C C {}", "#C {}"])
    assert texts == ["#C C cut", "#C cut", "#C C open", "#C open", "#C C open up", "#C open up"]
    assert owners == [0, 0, 1, 1, 1, 1]
    assert class_prompts(["cut"]) == (["cut"], [0])


def test_a_class_is_the_direction_of_the_mean_of_its_texts_directions() -> None:
    text = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    owner = torch.tensor([1, 0, 1, 2, 1])
    found = class_embeddings(text, owner, 3)
    for c in range(3):
        mean = F.normalize(text[owner == c], dim=-1).mean(0)
        torch.testing.assert_close(found[c], F.normalize(mean, dim=-1))
    scaled = text * torch.tensor([3.0, 1, 0.5, 2, 7])[:, None]
    torch.testing.assert_close(class_embeddings(scaled, owner, 3), found)


def test_a_class_without_a_text_is_named() -> None:
    with pytest.raises(ValueError, match=r"without a text: \[1\]"):
        class_embeddings(torch.ones(2, 3), torch.tensor([0, 2]), 3)


def test_views_give_the_best_of_each_class() -> None:
    views = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    scores = class_scores(views, F.normalize(torch.eye(4)[:3], dim=-1))
    assert scores.shape == (2, 3, 3)
    pooled = pool_views(scores)
    torch.testing.assert_close(pooled, pool_views(scores.flip(1)))
    torch.testing.assert_close(pooled.sum(-1), torch.ones(2))
    torch.testing.assert_close(pooled[0], scores[0].max(0).values.softmax(-1))
