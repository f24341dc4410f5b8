"""Prompts of the captioner: how others said it, then the question about the ego clip.

Each item is a clip's mark, a question and an answer; supports come in rank order, the ego query
last (Egoinstructor spec 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from egovl.data.word_tokens import clean_narration

PromptFormat = Literal["simple", "llama2", "idefics"]

IMAGE, ANSWER, END = "<image>", "<answer>", "<|endofchunk|>"
MAX_ANSWER_WORDS = 1024

_LEADING = ",.!?*#:;~"
_IDEFICS_IMAGE = f"<fake_token_around_image>{IMAGE}<fake_token_around_image>"


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, as they stand in a prompt."""

    question: str
    answer: str


@dataclass(frozen=True)
class PromptStyle:
    """How records become text."""

    format: PromptFormat = "simple"
    system: str = ""
    """Stands before every item of the format llama2."""
    clean_narrations: bool = False
    """Answers lose the tags of EgoClip's narrations."""
    use_chat: bool = False
    """The record's ``chat_answer`` is the answer."""


def tidy_question(text: str, random: Random | None = None) -> str:
    """A question in lower case, without leading marks.

    Args:
        text: as annotated.
        random: decides the case of the first letter, as published in training and, with
            ``legacy_random_case``, at test; None: lower case.
    """
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    if random is not None:
        upper = random.choice([True, False])
        text = (text[:1].upper() if upper else text[:1].lower()) + text[1:]
    return re.sub(r"\s{2,}", " ", text).strip("\n").strip(" ")


def tidy_answer(text: str, max_words: int = MAX_ANSWER_WORDS) -> str:
    """An answer of whole sentences that ends in a full stop; words beyond the limit are cut."""
    text = re.sub(r"\s{2,}", " ", text).strip("\n").strip(" ")
    kept = ""
    for sentence in text.split("."):
        longer = f"{kept}.{sentence}" if kept else sentence
        if len(longer.split(" ")) > max_words:
            break
        kept = longer
    if not kept:
        return " ".join(text.split(" ")[:max_words])
    return kept if kept.endswith(".") else kept + "."


def exchange_of(
    record: Mapping[str, Any], style: PromptStyle, random: Random | None = None
) -> Exchange:
    """Question and answer of a record, tidied."""
    question = tidy_question(record["instruction"], random)
    answer = tidy_answer(record["chat_answer" if style.use_chat else "answer"])
    return Exchange(question, clean_narration(answer) if style.clean_narrations else answer)


def reference_of(record: Mapping[str, Any], style: PromptStyle) -> str:
    """What a written caption is compared with: the plain answer, also where chat answers train."""
    answer = record["answer"]
    return clean_narration(answer) if style.clean_narrations else answer


def prompt_text(items: Sequence[Exchange], style: PromptStyle, *, is_open: bool) -> str:
    """The text of a prompt.

    Args:
        items: supports, then the query.
        style: of the text.
        is_open: stop where the last answer begins, for it to be written.
    """
    parts = [_item(item, style, number == len(items) - 1) for number, item in enumerate(items)]
    if is_open:
        parts[-1] = parts[-1].rpartition(ANSWER)[0] + ANSWER
    return "".join(parts)


def _item(item: Exchange, style: PromptStyle, is_last: bool) -> str:
    tail = f"{ANSWER}{item.answer}{END}"
    if style.format == "llama2":
        return f"[INST]{style.system}{IMAGE}{item.question}[/INST]{tail}"
    if style.format == "idefics":
        image = "" if is_last else _IDEFICS_IMAGE
        return f"User:{image}{item.question} Assistant:{tail}"
    return f"{IMAGE}User:{item.question} GPT:{tail}"


def finish_text(text: str) -> str:
    """What was answered last, out of a decoded prompt and its continuation."""
    answer = text.rpartition(ANSWER)[2].strip()
    return answer.partition(END)[0].strip().strip('"')


def without_full_stop(text: str) -> str:
    """The text without one full stop at its end (spec 6.1, `legacy_trailing_period`)."""
    return text.removesuffix(".").rstrip()


@dataclass(frozen=True)
class Supports:
    """Which records go before a query, and which clips are looked at.

    Attributes:
        records: places in the list of candidates, in the order of the prompt.
        clips: the same for clips; None is the query's own. As many as records, or none at all
            for the text-only example of a prompt without clips.
    """

    records: tuple[int, ...]
    clips: tuple[int | None, ...]


def choose_supports(
    count: int,
    max_shot: int,
    is_readable: Callable[[int], bool],
    pick: Callable[[Sequence[int], int], Sequence[int]],
) -> Supports:
    """Candidates whose clips can be read, in order, until there are enough.

    Where some are readable but too few, they are repeated behind those read, as ``pick(those,
    missing)`` says. Where none is, the query's clip stands in for each.

    Args:
        count: candidates, the best first.
        max_shot: supports wanted.
        is_readable: reads the clip of a candidate; asked in order, as often as needed.
        pick: chooses with replacement.
    """
    found: list[int] = []
    for candidate in range(count):
        if len(found) == max_shot:
            break
        if is_readable(candidate):
            found.append(candidate)
    if not found:
        first = tuple(range(min(count, max_shot)))
        return Supports(first, (None,) * len(first))
    missing = max_shot - len(found)
    places = (*found, *(pick(found, missing) if missing else ()))
    return Supports(places, places)


def pick_in_turn(found: Sequence[int], missing: int) -> list[int]:
    """Those found, again from the first: what evaluation repeats."""
    return [found[i % len(found)] for i in range(missing)]


def format_example(key: str) -> str:
    """Record whose text shows the format in a prompt without supports (spec 3.3)."""
    family = key.rpartition("_")[0]
    first, second = (f"{family}_{number:06d}" for number in (0, 1))
    return second if key == first else first
