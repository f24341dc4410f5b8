"""Paraphrases: chosen by the rules, written by a T5 as transformers writes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from egovl.models.decoder_configs import Seq2SeqConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate
from egovl.models.seq2seq import Seq2Seq
from egovl.narration.configs import RephraseConfig
from egovl.narration.rephrase import Rephrase

TINY = Seq2SeqConfig(vocab_size=29, width=16, depth=2, heads=2, hidden_width=32)


def tiny_t5() -> Seq2Seq:
    torch.manual_seed(0)
    model = Seq2Seq(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"strategy": "greedy"}, {"num_beams": 1}),
        ({"strategy": "beam", "num_beams": 3}, {"num_beams": 3}),
    ],
)
def test_texts_are_those_that_hugging_face_writes(ours: Any, theirs: Any) -> None:
    model = tiny_t5()
    tokens = torch.tensor([[5, 9, 3, 1], [7, 2, 1, 0]])
    mask = tokens != 0
    config = GenerationConfig(max_new_tokens=9, eos_id=1, **ours)
    prompt = torch.zeros(2, 1, dtype=torch.int64)
    with torch.no_grad():
        found = generate(model.writer(tokens, mask), prompt, config).ids
        expected = model.model.generate(
            tokens, attention_mask=mask.long(), max_new_tokens=9, do_sample=False, **theirs
        )[:, 1:]
    rows = [[t for t in row if t > 1] for row in found.tolist()]
    assert rows == [[t for t in row if t > 1] for row in expected.tolist()]


def chosen(config: RephraseConfig, written: list[str]) -> list[str]:
    scores = [-float(k) for k in range(len(written))]
    return Rephrase(config)._choose("#C C opens a drawer.", written, scores)["texts"]


def test_paraphrases_differ_from_the_narration_and_from_each_other() -> None:
    written = [
        "C opens a drawer",
        "C pulls a drawer!",
        "c pulls, a drawer",
        "",
        "A drawer opens",
        "x",
    ]
    assert chosen(RephraseConfig(keep=2), written) == [
        "#C C opens a drawer",
        "C pulls a drawer",
        "A drawer opens",
    ]
    assert chosen(RephraseConfig(keep=1, include_original=False), written) == ["C pulls a drawer"]
    kept = RephraseConfig(keep=1, strip_punctuation=False)
    assert chosen(kept, written) == ["#C C opens a drawer.", "C pulls a drawer!"]
