"""Clips of both views, and what trains together: an ego clip and instructional clips of the action.

Egoinstructor spec 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egovl.data.word_tokens import clean_narration

NO_WORDS = "I am doing something."
"""Stands for an empty transcript."""


@dataclass(frozen=True, slots=True)
class ViewClip:
    """A clip of either view.

    Attributes:
        video: whose features it is read from.
        uid: name of the video in its data set.
        span_sec: begin and end.
        text: what is said or narrated, as annotated.
        refined_text: a transcript rewritten as an action, where there is one.
        nouns: class ids.
        verbs: class ids.
        partners: exo clips that may be its pair.
        is_exo: of the instructional view.
    """

    video: str
    uid: str
    span_sec: tuple[float, float]
    text: str
    refined_text: str | None
    nouns: tuple[int, ...]
    verbs: tuple[int, ...]
    partners: tuple[int, ...]
    is_exo: bool


@dataclass(frozen=True, slots=True)
class PairMember:
    """One row of a pair: a clip, its words, and the tags that the loss compares."""

    clip: ViewClip
    text: str
    nouns: tuple[int, ...]
    verbs: tuple[int, ...]


def read_view_clips(records: Mapping[str, Any], *, is_exo: bool) -> list[ViewClip]:
    """Clips of an annotation file, whose keys count from "0".

    Raises:
        ValueError: a number is missing, or a record lacks a field; it names the record.
    """
    clips = []
    for number in range(len(records)):
        record = records.get(str(number))
        if record is None:
            raise ValueError(
                f"{len(records)} records but no key {str(number)!r}: keys count from 0"
            )
        try:
            clips.append(_clip(record, is_exo))
        except (KeyError, TypeError) as error:
            raise ValueError(f"record {number}: {error!r} is missing or no such value") from error
    return clips


def _clip(record: Mapping[str, Any], is_exo: bool) -> ViewClip:
    return ViewClip(
        video=record["vid"],
        uid=record.get("uid") or record["vid"],
        span_sec=(record["start_second"], record["end_second"]),
        text=record.get("text"),  # type: ignore[arg-type]  a transcript may be no text; cleaned later
        refined_text=record.get("refined_text"),
        nouns=tuple(record.get("noun") or ()),
        verbs=tuple(record.get("verb") or ()),
        partners=tuple(record.get("nv_index") or ()),
        is_exo=is_exo,
    )


def clip_text(text: object, *, is_exo: bool) -> str:
    """Words of a clip: a narration cleaned, a transcript as it is or, if empty, a stand-in."""
    if is_exo:
        return text if isinstance(text, str) and text else NO_WORDS
    return clean_narration(text if isinstance(text, str) else "")


class ViewPairs:
    """Ego clips, then exo clips; every one an anchor with `pair_num` partners.

    Args:
        ego: egocentric clips.
        exo: instructional clips.
        pair_num: partners of an anchor.
        clean_narrations: ego words lose the tags of EgoClip's narrations.
        legacy_pair_vectors: an ego clip whose partner was rejected is paired with itself, but has
            the rejected partner's tags (parity: egoinstructor ``retrieval_dataset``).
    """

    def __init__(
        self,
        ego: Sequence[ViewClip],
        exo: Sequence[ViewClip],
        *,
        pair_num: int = 1,
        clean_narrations: bool = True,
        legacy_pair_vectors: bool = False,
    ) -> None:
        self._ego = ego
        self._exo = exo
        self._pair_num = pair_num
        self._clean = clean_narrations
        self._legacy_vectors = legacy_pair_vectors

    def __len__(self) -> int:
        return len(self._ego) + len(self._exo)

    def clip(self, index: int) -> ViewClip:
        """The anchor of a row."""
        is_ego = index < len(self._ego)
        return self._ego[index] if is_ego else self._exo[index - len(self._ego)]

    def members(self, index: int, draw: Callable[[int, int], int]) -> list[PairMember]:
        """The anchor and its partners; ``draw(low, high)`` gives an integer of the closed range."""
        anchor = self._member(self.clip(index))
        members = [anchor]
        for partner in self._partners(anchor.clip, draw):
            clip = self._exo[partner]
            if set(clip.nouns) & set(anchor.nouns) and set(clip.verbs) & set(anchor.verbs):
                words = clip_text(clip.text, is_exo=True)
                members.append(PairMember(clip, words, clip.nouns, clip.verbs))
            elif self._legacy_vectors:
                members.append(PairMember(anchor.clip, anchor.text, clip.nouns, clip.verbs))
            else:
                members.append(anchor)
        return members + [anchor] * (1 + self._pair_num - len(members))

    def _member(self, clip: ViewClip) -> PairMember:
        if clip.is_exo:
            text = clip_text(clip.refined_text or clip.text, is_exo=True)
        elif self._clean:
            text = clip_text(clip.text, is_exo=False)
        else:
            text = clip.text
        return PairMember(clip, text, clip.nouns, clip.verbs)

    def _partners(self, clip: ViewClip, draw: Callable[[int, int], int]) -> list[int]:
        """Some of a clip's partners, none twice."""
        left = list(clip.partners)
        count = min(self._pair_num, len(left))
        return [left.pop(draw(0, len(left) - 1)) for _ in range(count)]


def mine_partners(
    ego: Sequence[ViewClip], exo: Sequence[ViewClip], most: int | None = None
) -> list[list[int]]:
    """Exo clips that share a noun and a verb with each ego clip, in order, at most `most`."""
    by_pair: dict[tuple[int, int], list[int]] = {}
    for number, clip in enumerate(exo):
        for noun in set(clip.nouns):
            for verb in set(clip.verbs):
                by_pair.setdefault((noun, verb), []).append(number)
    found = []
    for clip in ego:
        shared = {
            number
            for noun in set(clip.nouns)
            for verb in set(clip.verbs)
            for number in by_pair.get((noun, verb), ())
        }
        found.append(sorted(shared)[:most])
    return found
