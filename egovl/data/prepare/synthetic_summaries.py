"""Write summaries, long-video classes and coming actions of the rendered videos (HierVL's formats).

A summary tells which actions follow each other in a stretch of a video, and in which order, but not
with which object. A question's wrong choices are stretches of other videos: one with nearly the
same actions in another order, the rest drawn at random. So neither one clip nor the mean over all
clips tells the answer: the mean knows which actions there are, not which came first.

    egosummary_full.csv                  summaries of the training videos, EgoClip's columns
    summary_clips_hierarchy_full.json    narrations below each, by summary text, as released
    summary_hierarchy.json               the same by video and time, ours
    summarymcq_full.json                 questions over the held-out videos
    howto100m_classification_*.csv       class of a whole video: which attributes it changes
    fho_lta_{train,val}.json             actions of every video in order
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egoclip_table import COLUMNS
from egovl.data.datasets.summary_hierarchy import NarrationIndex, hierarchy_entry, read_summaries
from egovl.data.prepare.configs import FRAMES_PER_SEC
from egovl.data.prepare.synthetic_plan import (
    ATTRIBUTES,
    EVAL,
    NOUNS,
    PAIRS_PER_VIDEO,
    TRAIN,
    VERBS,
    Action,
    VideoPlan,
)

SUMMARY = 3  # types of a question on summaries
ACTIONS_PER_SUMMARY = 4
STRIDE = {TRAIN: 1, EVAL: 2}  # actions between the beginnings of two summaries
NUM_CHOICES = 5
_ALIKE = 1  # wrong choices with nearly the same actions
_HOWTO_COLUMNS = ("video_uid", "clip_start", "clip_end", "fps", "label")


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive actions of a video."""

    plan: VideoPlan
    actions: tuple[Action, ...]

    @property
    def verbs(self) -> tuple[int, ...]:
        """Their verbs in order."""
        return tuple(action.verb for action in self.actions)

    @property
    def text(self) -> str:
        """The summary."""
        told = ", ".join(VERBS[verb].phrase.replace("the {}", "it") for verb in self.verbs)
        return f"#Summary C {told}"


def write_summaries(plans: Sequence[VideoPlan], narrations: Path, folder: Path, seed: int) -> int:
    """Write all of them into a folder, above the table of narrations; return how many questions."""
    folder.mkdir(exist_ok=True)
    train = _stretches(plans, TRAIN)
    _write_egosummary(train, folder / "egosummary_full.csv")
    _write_hierarchies(narrations, folder)
    questions = _write_questions(_stretches(plans, EVAL), folder / "summarymcq_full.json", seed)
    for split, howto, lta in ((TRAIN, "train", "train"), (EVAL, "val", "val")):
        chosen = [plan for plan in plans if plan.split == split]
        _write_classes(chosen, folder / f"howto100m_classification_{howto}_sorted.csv")
        _write_actions(chosen, folder / f"fho_lta_{lta}.json")
    return questions


def video_class(plan: VideoPlan) -> int:
    """Number of the pair of attributes that a video's actions change."""
    own = {VERBS[action.verb].attribute for action in plan.actions}
    pairs = itertools.combinations(range(len(ATTRIBUTES)), PAIRS_PER_VIDEO)
    return next(number for number, pair in enumerate(pairs) if set(pair) == own)


def _stretches(plans: Iterable[VideoPlan], split: int) -> list[Stretch]:
    found = []
    for plan in plans:
        last = len(plan.actions) - ACTIONS_PER_SUMMARY
        if plan.split == split:
            for first in range(0, last + 1, STRIDE[split]):
                found.append(Stretch(plan, plan.actions[first : first + ACTIONS_PER_SUMMARY]))
    return found


def _record(stretch: Stretch) -> dict[str, Any]:
    values = (
        None,
        stretch.plan.uid,
        None,
        "raw",
        None,
        None,
        stretch.actions[0].start_sec,
        stretch.actions[-1].end_sec,
        stretch.text,
        "[]",
        "[]",
    )
    return dict(zip(COLUMNS, values, strict=True))


def _write_egosummary(stretches: Sequence[Stretch], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, stretch in enumerate(stretches):
            record = _record(stretch) | {"clip_idx": number}
            writer.writerow("" if value is None else value for value in record.values())


def _write_hierarchies(narrations: Path, folder: Path) -> None:
    index = NarrationIndex.read(narrations)
    rows = read_summaries(folder / "egosummary_full.csv")
    entries = [hierarchy_entry(row, index.within(row)) for row in rows]
    left_out = ("video_uid", "summary_text")
    by_text = {
        entry["summary_text"]: {k: v for k, v in entry.items() if k not in left_out}
        for entry in entries
    }
    (folder / "summary_hierarchy.json").write_text(json.dumps(entries), encoding="utf-8")
    released = folder / "summary_clips_hierarchy_full.json"
    released.write_text(json.dumps(by_text), encoding="utf-8")


def _write_questions(stretches: Sequence[Stretch], path: Path, seed: int) -> int:
    rng = np.random.default_rng((seed, EVAL, 3))
    answers = rng.permutation(np.arange(len(stretches)) % NUM_CHOICES).tolist()
    questions: dict[str, Any] = {}
    for number, (query, answer) in enumerate(zip(stretches, answers, strict=True)):
        chosen = _wrong_choices(query, stretches, rng)
        chosen.insert(answer, query)
        questions[str(number)] = {
            "answer": answer,
            "types": SUMMARY,
            "query": _record(query),
            "choices": {str(k): _record(choice) for k, choice in enumerate(chosen)},
        }
    path.write_text(json.dumps(questions), encoding="utf-8")
    return len(questions)


def _wrong_choices(
    query: Stretch, stretches: Sequence[Stretch], rng: np.random.Generator
) -> list[Stretch]:
    """Stretches of other videos, no two told alike: some with the query's actions, some without."""
    mixed = [stretches[i] for i in rng.permutation(len(stretches)).tolist()]
    others = [s for s in mixed if s.plan is not query.plan and s.verbs != query.verbs]
    # sorting is stable, so that equally near ones stay in random order
    near = sorted(others, key=lambda s: _differing(query, s))
    chosen: list[Stretch] = []
    for pool, wanted in ((near, _ALIKE), (others, NUM_CHOICES - 1)):
        for stretch in pool:
            told = {s.verbs for s in chosen}
            if len(chosen) < wanted and stretch.verbs not in told:
                chosen.append(stretch)
    if len(chosen) < NUM_CHOICES - 1:
        raise ValueError("too few held-out videos for questions on summaries: raise eval_videos")
    return [chosen[i] for i in rng.permutation(len(chosen)).tolist()]


def _differing(first: Stretch, second: Stretch) -> int:
    """How many actions of one have no like in the other."""
    return sum((Counter(first.verbs) - Counter(second.verbs)).values())


def _write_classes(plans: Iterable[VideoPlan], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(_HOWTO_COLUMNS)
        for plan in plans:
            row = f"{plan.uid}/0.mp4", 0.0, round(plan.duration_sec, 3), FRAMES_PER_SEC
            writer.writerow((*row, video_class(plan)))


def _write_actions(plans: Iterable[VideoPlan], path: Path) -> None:
    clips = [
        {
            "video_uid": plan.uid,
            "clip_uid": plan.uid,
            "clip_parent_start_sec": 0.0,
            "clip_parent_end_sec": round(plan.duration_sec, 6),
            "action_idx": number,
            "action_clip_start_sec": action.start_sec,
            "action_clip_end_sec": action.end_sec,
            "verb": VERBS[action.verb].phrase.split()[0],
            "verb_label": action.verb,
            "noun": NOUNS[action.noun],
            "noun_label": action.noun,
        }
        for plan in plans
        for number, action in enumerate(plan.actions)
    ]
    path.write_text(json.dumps({"clips": clips}), encoding="utf-8")
