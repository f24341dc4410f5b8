"""Questions as GroundNLQ's text features were made from them (GroundNLQ spec 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from egovl.data.text import CLIPTokenizer

MAX_WORD_TOKENS = 30
"""Byte pairs of a question that are kept, start and end not counted."""


def canonical_question(text: str) -> str:
    """Cut full stops, then spaces, then question marks off both ends; lower-case; ask.

    Each cut happens once, in this order, so a space before the question mark stays.
    """
    return text.strip(".").strip(" ").strip("?").lower() + "?"


def question_tokens(tokenizer: CLIPTokenizer, question: str) -> list[int]:
    """Ids of a question with start and end, at most 32."""
    words = tokenizer.encode(question)[:MAX_WORD_TOKENS]
    return [tokenizer.start_id, *words, tokenizer.end_id]


def word_rows(ids: Sequence[int], *, legacy_zero: bool = False, end_token: bool = False) -> slice:
    """Which rows of a text's hidden states are words: without start, end and padding.

    Args:
        ids: from the start token on; padding of 0 may follow.
        legacy_zero: as in the published stores, where each ``!`` inside, whose id is 0 as the
            padding's, shortens the slice by a row.
        end_token: keep the end token's row too.
    """
    if legacy_zero:
        return slice(1, sum(i != 0 for i in ids) - 1)
    last = max((place for place, i in enumerate(ids) if i != 0), default=0)
    return slice(1, last + end_token)


def pad_questions(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """``[N, length]`` int64, zeros behind each question.

    Raises:
        ValueError: a question is longer.
    """
    table = torch.zeros(len(rows), length, dtype=torch.int64)
    for place, ids in enumerate(rows):
        if len(ids) > length:
            raise ValueError(f"a question of {len(ids)} tokens: the text tower has {length} places")
        table[place, : len(ids)] = torch.tensor(ids)
    return table
