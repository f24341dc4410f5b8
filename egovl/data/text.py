"""Text to token ids: CLIP's byte pairs, and Hugging Face tokenizers from a local folder.

Both return ``tokens [N, L]`` int64 and ``mask [N, L]`` bool, True where a token stands.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import itertools
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor

from egovl.data.configs import CLIPBPEConfig, HFTokenizerConfig

Tokens = tuple[Tensor, Tensor]

_VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = 49152 - 256 - 2
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


@lru_cache(maxsize=1)
def _byte_letters() -> dict[int, str]:
    """A visible character for each byte, in the order of the published vocabulary."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    return letters


def clean_text(text: str) -> str:
    """Repair broken characters and html entities, collapse white space, lower-case."""
    if "&" in text or not (text.isascii() and text.isprintable()):
        import ftfy  # not needed by plain text, which is nearly all of it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class CLIPTokenizer:
    """CLIP's byte pair encoding: start, words, end, zeros.

    Args:
        merges: Pairs of parts, the most frequent first.
        context_length: Tokens per text.
        legacy_truncate: A text that is too long loses its end token instead of its last word.
    """

    def __init__(
        self,
        merges: Sequence[tuple[str, str]],
        context_length: int = 77,
        legacy_truncate: bool = False,
    ) -> None:
        letters = list(_byte_letters().values())
        parts = [*letters, *(letter + "</w>" for letter in letters)]
        parts += ["".join(pair) for pair in merges]
        self.start_id, self.end_id = len(parts), len(parts) + 1
        self.vocab_size = len(parts) + 2
        self.context_length = context_length
        self._ids = {part: i for i, part in enumerate([*parts, _START, _END])}
        self._parts = {i: part for part, i in self._ids.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.legacy_truncate = legacy_truncate
        self._word_ids: dict[str, list[int]] = {
            _START: [self.start_id],
            _END: [self.end_id],
        }

    def encode(self, text: str) -> list[int]:
        """Ids of a text without start and end."""
        ids: list[int] = []
        for word in _WORDS.findall(clean_text(text)):
            found = self._word_ids.get(word)
            if found is None:
                found = self._word_ids[word] = self._encode_word(word)
            ids += found
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; words are separated by one space."""
        joined = "".join(self._parts[i] for i in ids)
        values = {letter: byte for byte, letter in _byte_letters().items()}
        spaced = joined.replace("</w>", " ")
        data = b"".join(bytes([values[c]]) if c in values else c.encode("utf-8") for c in spaced)
        return data.decode("utf-8", errors="replace")

    def __call__(self, texts: str | Sequence[str]) -> Tokens:
        """Tokens and mask of one text or several, ``[N, context_length]``."""
        texts = [texts] if isinstance(texts, str) else texts
        length = self.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids = [self.start_id, *self.encode(text), self.end_id]
            if len(ids) > length:
                ids = ids[:length]
                if not self.legacy_truncate:
                    ids[-1] = self.end_id
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        return tokens, mask

    def _encode_word(self, word: str) -> list[int]:
        letters = _byte_letters()
        parts = [letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: self._ranks.get(pair, 1 << 30))
            if best not in self._ranks:
                break
            parts = _merge(parts, best)
        return [self._ids[part] for part in parts]


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of a pair, from the left."""
    merged: list[str] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            merged.append(parts[i] + parts[i + 1])
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def load_clip_tokenizer(config: CLIPBPEConfig) -> CLIPTokenizer:
    """CLIP's tokenizer from its published vocabulary file.

    Raises:
        FileNotFoundError: No such file, and no open_clip_torch wheel that carries it.
    """
    path = config.vocabulary or _wheel_vocabulary()
    if not path.is_file():
        raise FileNotFoundError(f"vocabulary {path} does not exist; set tokenizer.vocabulary")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    num_merges = _NUM_MERGES if config.vocab_size is None else config.vocab_size - 514
    merges = [_pair(line, path) for line in lines[1 : 1 + num_merges]]
    return CLIPTokenizer(merges, config.context_length, config.legacy_truncate)


def _pair(line: str, path: Path) -> tuple[str, str]:
    first, _, second = line.partition(" ")
    if not first or not second:
        raise ValueError(f"{path}: {line!r} is not a pair of parts")
    return first, second


def _wheel_vocabulary() -> Path:
    # found without importing the package, which would load torchvision and timm
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "no vocabulary: install open_clip_torch or set tokenizer.vocabulary to "
            f"{_VOCABULARY_FILE}"
        )
    return Path(spec.origin).parent / _VOCABULARY_FILE


class HFTokenizer:
    """A Hugging Face tokenizer, padded to the longest text of the call.

    Args:
        tokenizer: of Hugging Face.
        context_length: Most tokens of a text.
        legacy_truncate: A text that is too long loses its end token instead of its last word.
    """

    def __init__(
        self, tokenizer: Any, context_length: int, *, legacy_truncate: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        self._legacy_truncate = legacy_truncate
        self.vocab_size = len(tokenizer)

    def __call__(self, texts: str | Sequence[str]) -> Tokens:
        """Tokens and mask of one text or several, ``[N, longest]``."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        encoded = self._tokenizer(
            texts,
            padding=True,
            truncation=not self._legacy_truncate,
            max_length=None if self._legacy_truncate else self.context_length,
            return_tensors="pt",
            verbose=False,
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
        return ids[:, : self.context_length], mask[:, : self.context_length]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without start, end and padding tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def load_hf_tokenizer(config: HFTokenizerConfig) -> HFTokenizer:
    """A tokenizer from its files.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    if not config.folder.is_dir():
        raise FileNotFoundError(
            f"tokenizer folder {config.folder} does not exist; put tokenizer.json (or vocab.txt) "
            "and tokenizer_config.json of the text model there"
        )
    # loading processes are forked after the first use, where its own threads would warn and stop
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.folder, local_files_only=True)
    limit = config.context_length or min(tokenizer.model_max_length, 512)
    return HFTokenizer(tokenizer, limit, legacy_truncate=config.legacy_truncate)
