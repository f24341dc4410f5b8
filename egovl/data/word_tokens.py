"""Words and punctuation of a narration in the Treebank style, and narrations without their tags.

What NLTK's ``word_tokenize`` gives for one sentence; its trained sentence splitter is replaced by a
rule: a full stop and white space behind it end a sentence (Egoinstructor spec 3.7).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_Rules = Sequence[tuple[re.Pattern[str], str]]

_OPENING = "\u00ab\u201c\u2018\u201e"
_CLOSING = "\u00bb\u201d\u2019"


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


# applied in this order; each sees what the ones before have split
_BEFORE_PADDING = _rules(
    # opening quotes
    (rf"([{_OPENING}]|`+)", r" \1 "),
    (r'^"', "``"),
    (r"(``)", r" \1 "),
    (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2"),
    # punctuation; a final full stop takes closing brackets and quotes along
    (rf"([^.])(\.)([\])}}>\"'{_CLOSING} ]*)\s*$", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&]", r" \g<0> "),
    (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
    (r"[?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*]", r" \g<0> "),
    # brackets and dashes
    (r"[\]\[(){}<>]", r" \g<0> "),
    (r"--", r" -- "),
)
_AFTER_PADDING = _rules(
    # closing quotes and clitics
    (rf"([{_CLOSING}])", r" \1 "),
    (r"''", " '' "),
    (r'"', " '' "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    # contractions
    (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
    (r"(?i)\b(gim)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
    (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
    (r"(?i)\b(lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(more)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is)\b", r" \1 \2 "),
    (r"(?i) ('t)(was)\b", r" \1 \2 "),
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")

TAGS = frozenset(["#", "c", "cc", "o", "x", "y", "b", "p", "s", "r", "g", "n", "z", "v", "k"])
"""Words of EgoClip's narrations that stand for people and marks."""


def word_tokens(text: str) -> list[str]:
    """Words and punctuation marks of a text."""
    return [token for sentence in _SENTENCE_END.split(text) for token in _tokens_of(sentence)]


def _tokens_of(sentence: str) -> list[str]:
    for pattern, replacement in _BEFORE_PADDING:
        sentence = pattern.sub(replacement, sentence)
    sentence = f" {sentence} "
    for pattern, replacement in _AFTER_PADDING:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def clean_narration(text: str) -> str:
    """Lower-case words of a narration, single letters for people and tags left out."""
    return " ".join(token for token in word_tokens(text.lower()) if token not in TAGS)
