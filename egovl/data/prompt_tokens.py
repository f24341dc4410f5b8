"""Tokens of the captioner: a byte-level vocabulary from a local file, and the prompt's own marks.

Ids are taken from the file, never assumed (Egoinstructor spec 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egovl.data.prompts import ANSWER, END, IMAGE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD = "<PAD>"
END_OF_TEXT = "<|endoftext|>"
PUBLISHED_BAD_WORDS = ("User:", "GPT1:", "GFT:", "GPT:")
"""What a caption must not contain, as published."""


class PromptTokenizer:
    """Prompts to token ids and back.

    Args:
        tokenizer: from a ``tokenizer.json``; gets the prompt's marks.
        context_length: most tokens of a text, with its begin and end.
        legacy_truncate: cut the text to `context_length` before begin and end are put around it,
            so that a long one has two tokens too many (parity: egoinstructor ``text_processing``).

    Raises:
        ValueError: the vocabulary has no end-of-text token.
    """

    def __init__(
        self, tokenizer: Tokenizer, context_length: int = 2048, *, legacy_truncate: bool = False
    ) -> None:
        end = tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT}; take GPT-NeoX-20B's")
        tokenizer.add_special_tokens([END, IMAGE, ANSWER])
        tokenizer.add_special_tokens([PAD])
        self._tokenizer = tokenizer
        self._room = context_length if legacy_truncate else context_length - 2
        self.context_length = context_length
        self.end_of_text_id = end
        self.end_id = self._id(END)
        self.image_id = self._id(IMAGE)
        self.answer_id = self._id(ANSWER)
        self.pad_id = self._id(PAD)
        self.vocab_size: int = tokenizer.get_vocab_size()

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of a text without begin and end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str, *, is_open: bool = False) -> list[int]:
        """Ids of a prompt: begin, its text, and, unless it is to be written on, end."""
        ids = [self.end_of_text_id, *self.encode(text)[: self._room]]
        return ids if is_open else [*ids, self.end_of_text_id]

    def __call__(self, texts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask of whole prompts, ``[N, longest]``, padded on the right."""
        texts = [texts] if isinstance(texts, str) else texts
        return self.pad([self.encode_prompt(text) for text in texts])

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Rows of ids as tokens and mask ``[N, longest]``; on the left for prompts to write on."""
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.pad_id, dtype=torch.int64)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for number, ids in enumerate(rows):
            place = slice(longest - len(ids), None) if left else slice(0, len(ids))
            tokens[number, place] = torch.tensor(ids)
            mask[number, place] = True
        return tokens, mask

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, marks included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def bad_words(self, words: Sequence[str] = PUBLISHED_BAD_WORDS) -> tuple[tuple[int, ...], ...]:
        """Ids of words that must not be written."""
        return tuple(tuple(self.encode(word)) for word in words)

    def __reduce__(self) -> tuple[object, ...]:
        legacy = self._room == self.context_length
        return _rebuilt, (self._tokenizer.to_str(), self.context_length, legacy)


def _rebuilt(content: str, context_length: int, legacy_truncate: bool) -> PromptTokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    return PromptTokenizer(tokenizer, context_length, legacy_truncate=legacy_truncate)


def load_prompt_tokenizer(
    file: Path, context_length: int = 2048, *, legacy_truncate: bool = False
) -> PromptTokenizer:
    """The tokenizer of a ``tokenizer.json``, or of a folder that holds one.

    Raises:
        FileNotFoundError: it is not there.
    """
    path = file / "tokenizer.json" if file.is_dir() else file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; put GPT-NeoX-20B's tokenizer.json there, or name it in "
            "tokenizer.file"
        )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return PromptTokenizer(tokenizer, context_length, legacy_truncate=legacy_truncate)
