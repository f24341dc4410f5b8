"""Generation by every strategy: against Hugging Face, against no cache, and by its own rules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from egovl.convert.load import Tolerated, load_published
from egovl.convert.narrator import CONSTANTS, GPT2_KEYS
from egovl.models.configs import VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, PoolerConfig
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.generate import generate
from egovl.models.hf_decoder import GPT2
from egovl.models.narrator import Narrator

VOCABULARY, EOS, PAD = 23, 5, 0
SIZES = GPT2Config(vocab_size=VOCABULARY, context_length=32, width=16, depth=2, heads=2, dropout=0)


def language_models(seed: int = 0) -> tuple[GPT2, Any]:
    """The same weights in ours and in Hugging Face's GPT-2, spread so that texts differ."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    theirs = GPT2LMHeadModel(HFConfig(**sizes, bos_token_id=1, eos_token_id=EOS)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    ours = GPT2(SIZES).eval()
    state = {k.removeprefix("transformer."): v for k, v in theirs.state_dict().items()}
    load_published(ours, state, GPT2_KEYS, Tolerated(dropped=CONSTANTS))
    return ours, theirs


def narrator(seed: int = 0) -> Narrator:
    torch.manual_seed(seed)
    config = NarratorConfig(
        video=VideoTowerConfig(
            image_size=16, patch_size=8, width=16, depth=1, heads=2, num_frames=2
        ),
        pooler=PoolerConfig(queries=4, heads=2, head_width=8),
        decoder=replace(SIZES, cross_every=1),
    )
    model = Narrator(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@dataclass(frozen=True)
class NoCache:
    """A decoder that reads the whole text again for each token."""

    model: Narrator
    clips: Tensor

    @dataclass(frozen=True)
    class State:
        tokens: Tensor
        clips: Tensor

        def select(self, rows: Tensor) -> NoCache.State:
            return NoCache.State(self.tokens[rows], self.clips[rows])

    def start(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, State]:
        return self.model.decode(self.clips, tokens)[:, -1], self.State(tokens, self.clips)

    def advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        longer = self.State(torch.cat([state.tokens, tokens[:, None]], dim=1), state.clips)
        return self.model.decode(longer.clips, longer.tokens)[:, -1], longer


def settings(**changes: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_new_tokens": 12, "eos_id": EOS, "pad_id": PAD, **changes})


def hugging_face(theirs: Any, prompt: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        ids = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=EOS,
            **options,
        )
    return ids[:, prompt.shape[1] :]


def cut(ids: Tensor) -> list[list[int]]:
    """Rows up to their end token."""
    rows = ids.tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


PROMPT = torch.tensor([[1, 7, 3], [1, 2, 9], [1, 11, 4]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"strategy": "greedy"}, {"num_beams": 1}),
        ({"strategy": "greedy", "no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"strategy": "greedy", "bad_words": ((8,), (2, 9))}, {"bad_words_ids": [[8], [2, 9]]}),
        ({"strategy": "beam"}, {"num_beams": 3}),
        ({"strategy": "beam", "length_penalty": 0.3}, {"num_beams": 3, "length_penalty": 0.3}),
        (
            {"strategy": "beam", "num_return_sequences": 3, "num_beams": 4},
            {"num_beams": 4, "num_return_sequences": 3},
        ),
        (
            {"strategy": "beam", "no_repeat_ngram_size": 3, "stop_at_num_beams": True},
            {"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True},
        ),
    ],
)
def test_greedy_and_beam_texts_are_those_of_hugging_face(
    seed: int, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    model, reference = language_models(seed)
    found = generate(model.writer(), PROMPT, settings(**ours)).ids
    assert cut(found) == cut(hugging_face(reference, PROMPT, **theirs))


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "greedy"},
        {"strategy": "sample", "top_p": 0.9, "num_return_sequences": 5},
        {"strategy": "beam", "num_return_sequences": 2},
        {"strategy": "diverse_beam", "num_beams": 4, "num_beam_groups": 2},
        {"strategy": "beam_sample", "num_return_sequences": 3, "temperature": 1.5},
    ],
)
def test_the_cache_changes_no_token(options: dict[str, Any]) -> None:
    model, clips = narrator(), torch.randn(3, 4, 16)
    prompt = torch.ones(3, 1, dtype=torch.int64)
    results = [
        generate(decoder, prompt, settings(**options), torch.Generator().manual_seed(3))
        for decoder in (model.writer(clips), NoCache(model, clips))
    ]
    assert torch.equal(results[0].ids, results[1].ids)
    torch.testing.assert_close(results[0].scores, results[1].scores)


def test_rows_that_ended_change_nothing_in_the_others() -> None:
    model, clips = narrator(1), torch.randn(6, 4, 16)
    prompt = torch.ones(6, 1, dtype=torch.int64)
    endless = settings(strategy="greedy", max_new_tokens=20, eos_id=VOCABULARY)
    free = generate(model.writer(clips), prompt, endless).ids.tolist()
    # an end token that the texts meet at different places, or not at all
    end = max(range(VOCABULARY), key=lambda t: len({r.index(t) if t in r else 20 for r in free}))
    config = replace(endless, eos_id=end)
    together = generate(model.writer(clips), prompt, config)
    alone = [
        generate(model.writer(clips[i : i + 1]), prompt[:1], config).ids[0]
        for i in range(len(clips))
    ]
    whole = [row[: row.index(end) + 1] if end in row else row for row in free]
    assert len({len(row) for row in whole}) > 1, "all texts end together: nothing left the batch"
    for row, own, expected in zip(together.ids.tolist(), alone, whole, strict=True):
        assert row[: len(expected)] == own.tolist() == expected
        assert set(row[len(expected) :]) <= {PAD}


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_a_score_is_the_log_probability_over_the_length(strategy: str) -> None:
    model, _ = language_models(2)
    generator = torch.Generator().manual_seed(0)
    config = settings(strategy=strategy, length_penalty=0.7)
    ids, scores = generate(model.writer(), PROMPT, config, generator)
    for row, prompt, score in zip(cut(ids), PROMPT, scores, strict=True):
        whole = torch.cat([prompt, torch.tensor(row)])
        log_p = model(whole[None, :-1]).log_softmax(-1)[0, len(prompt) - 1 :]
        expected = log_p.gather(1, torch.tensor(row)[:, None]).sum() / len(row) ** 0.7
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_prompts_padded_on_the_left_are_read_as_if_alone() -> None:
    model, _ = language_models(3)
    padded = torch.tensor([[PAD, PAD, 1, 7], [1, 2, 9, 4]])
    mask = padded != PAD
    config = settings(strategy="greedy")
    both = generate(model.writer(), padded, config, mask=mask).ids
    alone = generate(model.writer(), padded[:1, 2:], config).ids
    assert cut(both)[0] == cut(alone)[0]


def test_diverse_groups_differ_where_published_ones_are_the_same() -> None:
    model, _ = language_models(1)
    config = settings(
        strategy="diverse_beam",
        num_beams=4,
        num_beam_groups=4,
        num_return_sequences=4,
        diversity_penalty=2.0,
    )
    diverse = generate(model.writer(), PROMPT, config).ids
    same = generate(model.writer(), PROMPT, replace(config, legacy_beam_scores=True)).ids
    for rows in diverse.unflatten(0, (3, 4)):
        assert len(set(map(tuple, cut(rows)))) > 1
    for rows in same.unflatten(0, (3, 4)):
        assert len(set(map(tuple, cut(rows)))) == 1


def test_the_same_generator_writes_the_same_and_another_something_else() -> None:
    model, _ = language_models()
    config = settings(strategy="sample", num_return_sequences=8)
    ids = [
        generate(model.writer(), PROMPT, config, torch.Generator().manual_seed(seed)).ids.tolist()
        for seed in (1, 1, 2)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_text_longer_than_the_positions_is_refused_with_the_way_out() -> None:
    model, _ = language_models()
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        generate(model.writer(), PROMPT, settings(strategy="greedy", max_new_tokens=60, eos_id=99))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "gready"}, "strategy"),
        ({"temperature": 0}, "above 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"strategy": "beam", "num_return_sequences": 9}, "at most num_beams"),
        ({"strategy": "diverse_beam", "num_beams": 4, "num_beam_groups": 3}, "divisor"),
        ({"legacy_early_stop": True}, "legacy_run_on"),
    ],
)
def test_a_contradiction_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
