"""Write the planned actions as EgoClip's csv and EgoMCQ's json, the real datasets' formats.

egoclip.csv holds the training videos only, egomcq.json the held-out ones only. In EgoMCQ types 1
is inter-video (five videos, five different objects) and 2 is intra-video: one video, one object,
the answer's verb against four clips of its time-reversed partner, so only the order decides.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egoclip_table import COLUMNS
from egovl.data.prepare.synthetic_plan import EVAL, TRAIN, Action, VideoPlan

INTER_VIDEO, INTRA_VIDEO = 1, 2
NUM_CHOICES = 5


@dataclass(frozen=True, eq=False)
class _Clip:
    plan: VideoPlan
    index: int  # in its video
    action: Action


def write_egoclip(plans: Iterable[VideoPlan], path: Path) -> int:
    """Write the clips of the training videos as tab separated rows; return how many."""
    clips = _list_clips(plans, TRAIN)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip_idx, clip in enumerate(clips):
            writer.writerow(_record(clip_idx, clip).values())
    return len(clips)


def write_egomcq(plans: Iterable[VideoPlan], path: Path, seed: int) -> dict[int, int]:
    """Write one inter-video and one intra-video question per held-out clip; count per type."""
    clips = _list_clips(plans, EVAL)
    rng = np.random.default_rng((seed, EVAL, 1))
    questions: dict[str, Any] = {}
    for kind in (INTER_VIDEO, INTRA_VIDEO):
        # Each place is the answer equally often.
        answers = rng.permutation(np.arange(len(clips)) % NUM_CHOICES)
        draw = _sample_elsewhere if kind == INTER_VIDEO else _sample_partners
        for query, answer in enumerate(answers.tolist()):
            chosen = draw(clips, query, rng)
            chosen.insert(answer, query)
            questions[str(len(questions))] = {
                "answer": answer,
                "types": kind,
                "query": _record(query, clips[query]),
                "choices": {str(k): _record(c, clips[c]) for k, c in enumerate(chosen)},
            }
    path.write_text(json.dumps(questions), encoding="utf-8")
    return {INTER_VIDEO: len(clips), INTRA_VIDEO: len(clips)}


def _list_clips(plans: Iterable[VideoPlan], split: int) -> list[_Clip]:
    return [
        _Clip(plan, index, action)
        for plan in plans
        if plan.split == split
        for index, action in enumerate(plan.actions)
    ]


def _record(clip_idx: int, clip: _Clip) -> dict[str, Any]:
    action = clip.action
    values = (
        clip_idx,
        clip.plan.uid,
        round(clip.plan.duration_sec, 6),
        "narration_pass_1",
        clip.index,
        action.narration_sec,
        action.start_sec,
        action.end_sec,
        action.text,
        str([action.verb]),
        str([action.noun]),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _sample_elsewhere(clips: list[_Clip], query: int, rng: np.random.Generator) -> list[int]:
    """Draw wrong clips from other videos, no object or video twice."""
    seen = [clips[query]]
    chosen: list[int] = []
    for place in rng.permutation(len(clips)).tolist():
        clip = clips[place]
        if all(c.plan is not clip.plan and c.action.noun != clip.action.noun for c in seen):
            seen.append(clip)
            chosen.append(place)
        if len(chosen) == NUM_CHOICES - 1:
            return chosen
    raise ValueError(
        f"clip {query} has no {NUM_CHOICES - 1} held-out videos with other objects: "
        "raise eval_videos"
    )


def _sample_partners(clips: list[_Clip], query: int, rng: np.random.Generator) -> list[int]:
    """Draw wrong clips from the same video and object: the verb played backwards."""
    own = clips[query]
    partner = own.action.verb ^ 1  # VERBS stand in pairs
    rivals = [
        place
        for place, clip in enumerate(clips)
        if clip.plan is own.plan and clip.action.verb == partner
    ]
    return rng.permutation(rivals)[: NUM_CHOICES - 1].tolist()
