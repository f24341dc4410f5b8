from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.data.configs import CLIPBPEConfig
from egovl.data.datasets.nlq_configs import QueryTokensConfig
from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.data.query_text import question_tokens
from egovl.models.configs import TextTowerConfig
from egovl.query_tokens import LAYER, LAYER_WITH_END, encode_words, has_end_tokens

TEXTS = ["where is the knife?", "who opened it, and when?"]


def test_the_end_tokens_row_follows_the_words_where_it_is_asked_for() -> None:
    torch.manual_seed(0)
    tower = TextTowerConfig(vocab_size=49408, context_length=24, width=8, heads=2, depth=1).build()
    tokenizer = CLIPBPEConfig().build()
    words = encode_words(tower.eval(), tokenizer, TEXTS)
    whole = encode_words(tower, tokenizer, TEXTS, end_token=True)
    for text, without, with_end in zip(TEXTS, words, whole, strict=True):
        ids = question_tokens(tokenizer, text)
        assert [len(without), len(with_end)] == [len(ids) - 2, len(ids) - 1]
        with torch.no_grad():
            hidden = tower.forward_tokens(torch.tensor([ids]))[0].numpy()
        np.testing.assert_allclose(with_end, hidden[1:], atol=1e-5)
        np.testing.assert_array_equal(without, with_end[:-1])


def test_a_store_says_whether_it_keeps_the_end_token(tmp_path: Path) -> None:
    assert not has_end_tokens(tmp_path / "none")
    for layer, expected in ((LAYER, False), (LAYER_WITH_END, True)):
        folder = tmp_path / str(expected)
        FeatureWriter(folder, FeatureFacts(width=8, layer=layer)).write("x", np.ones((2, 8)))
        assert has_end_tokens(folder) == expected
    with pytest.raises(ValueError, match="layer"):
        FeatureWriter(folder, FeatureFacts(width=8, layer=LAYER))


def test_published_and_own_rows_cannot_both_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="legacy_zero and end_token"):
        QueryTokensConfig(annotations=(tmp_path,), legacy_zero=True, end_token=True)
