"""GPT-2's tokens for captions that a decoder learns to write (LaViLa spec 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PAD_ID = 0
"""Also the token "!", which is therefore never trained (LaViLa spec 3.8)."""


class CaptionTokenizer:
    """Start, words, end, zeros; start and end are one token.

    Args:
        tokenizer: GPT-2's, of Hugging Face.
        context_length: tokens of a text.
        add_start: put the start token before a text.
        legacy_decode: drop the last token of ids without an end, as published; it may be a word.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_length: int = 77,
        *,
        add_start: bool = True,
        legacy_decode: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.add_start = add_start
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id = PAD_ID
        self.vocab_size = len(tokenizer)
        self._legacy_decode = legacy_decode

    def __call__(self, texts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask of one text or several, ``[N, context_length]``; a long text is cut."""
        texts = [texts] if isinstance(texts, str) else texts
        tokens = torch.full((len(texts), self.context_length), PAD_ID, dtype=torch.int64)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        start = [self.end_id] if self.add_start else []
        room = self.context_length - len(start) - 1
        for row, text in enumerate(texts):
            ids = [*start, *self._tokenizer.encode(text, verbose=False)[:room], self.end_id]
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        return tokens, mask

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids that begin with the start token, up to the end token."""
        words = list(ids)[1:]
        if self.end_id in words:
            words = words[: words.index(self.end_id)]
        elif self._legacy_decode:
            words = words[:-1]
        return self._tokenizer.decode(words)


def load_caption_tokenizer(
    folder: Path, context_length: int = 77, *, legacy_decode: bool = False
) -> CaptionTokenizer:
    """GPT-2's tokenizer from its files.

    Raises:
        FileNotFoundError: they are not there.
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} does not exist; put vocab.json and merges.txt of gpt2 there and "
                "name the folder in tokenizer.folder"
            )
    from transformers import GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    tokenizer = GPT2TokenizerFast.from_pretrained(folder, local_files_only=True)
    return CaptionTokenizer(tokenizer, context_length, legacy_decode=legacy_decode)
