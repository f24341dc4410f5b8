"""GPT-2's kind of tokenizer for the rendered corpus, and its held-out narrations as a list.

gpt2/vocab.json, merges.txt      byte pairs of the narrations, in GPT-2's files
narrations/ego4d_val.pkl         the held-out clips, as LaViLa's validation list
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from egovl.data.prepare.synthetic_plan import EVAL, VideoPlan

_END = "<|endoftext|>"
_FIRST_WORD_MARK = "\u0120"  # a space, as byte-level vocabularies write it


def write_narrator_files(plans: Iterable[VideoPlan], folder: Path) -> None:
    """Write the tokenizer, and the validation list of the held-out videos."""
    plans = list(plans)
    rows = [
        (plan.uid, action.start_sec, action.end_sec, action.text)
        for plan in plans
        if plan.split == EVAL
        for action in plan.actions
    ]
    (folder / "narrations").mkdir(parents=True, exist_ok=True)
    (folder / "narrations/ego4d_val.pkl").write_bytes(pickle.dumps(rows))
    texts = (action.text for plan in plans for action in plan.actions)
    write_tokenizer(texts, folder / "gpt2")


def write_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """GPT-2's files: bytes, the end token last, merges up to whole words of these texts."""
    words = Counter(
        _FIRST_WORD_MARK * bool(place) + word
        for text in texts
        for place, word in enumerate(text.split())
    )
    parts = {word: tuple(word) for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := _pairs(parts, words):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        parts = {word: _merge(split, best) for word, split in parts.items()}
    vocabulary = [*_byte_letters(), *("".join(pair) for pair in merges), _END]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {part: number for number, part in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    described = {"tokenizer_class": "GPT2Tokenizer", "eos_token": _END, "pad_token": _END}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pairs(parts: dict[str, tuple[str, ...]], words: Counter[str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for word, split in parts.items():
        for pair in pairwise(split):
            found[pair] += words[word]
    return found


def _merge(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    place = 0
    while place < len(split):
        step = 2 if split[place : place + 2] == pair else 1
        merged.append("".join(split[place : place + step]))
        place += step
    return tuple(merged)


def _byte_letters() -> list[str]:
    """A visible character for each byte, "!" first, as GPT-2 has them."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [256 + number for number in range(256 - len(visible))]
    return [chr(code) for code in visible + hidden]
