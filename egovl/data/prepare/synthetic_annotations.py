"""Write the plan in the files of the real datasets: EgoClip's csv, EgoMCQ's json, word lists.

Formats: EgoVLP spec 3.1 and 3.3; types 1 = inter-video, 2 = intra-video.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.prepare.synthetic_plan import NOUNS, VERBS, Action, VideoPlan

NUM_CHOICES = 5
INTER_VIDEO, INTRA_VIDEO = 1, 2
COLUMNS = (
    "clip_idx",
    "video_uid",
    "video_dur",
    "narration_source",
    "narration_ind",
    "narration_time",
    "clip_start",
    "clip_end",
    "clip_text",
    "tag_verb",
    "tag_noun",
)

Record = dict[str, Any]


def clip_records(plans: Sequence[VideoPlan]) -> list[list[Record]]:
    """Each video's clips as EgoClip describes them."""
    records: list[list[Record]] = []
    count = 0
    for plan in plans:
        records.append([])
        for place, action in enumerate(plan.actions):
            records[-1].append(_record(count, plan, place, action))
            count += 1
    return records


def write_egoclip(path: Path, plans: Sequence[VideoPlan]) -> int:
    """Write `egoclip.csv`; returns the number of clips."""
    rows = [record for video in clip_records(plans) for record in video]
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(str(row[column]) for column in COLUMNS) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return len(rows)


def write_egomcq(path: Path, plans: Sequence[VideoPlan], seed: int) -> int:
    """Write `egomcq.json`: for each clip one question of each type; returns their number."""
    rng = np.random.default_rng((seed, 7))
    records = clip_records(plans)
    questions: dict[str, Record] = {}
    for video, plan in enumerate(plans):
        for place, action in enumerate(plan.actions):
            answer = records[video][place]
            for kind, others in (
                (INTER_VIDEO, _from_other_videos(plans, records, video, rng)),
                (INTRA_VIDEO, _partners(plan, records[video], action, rng)),
            ):
                questions[str(len(questions))] = _question(kind, answer, others, rng)
    path.write_text(json.dumps(questions))
    return len(questions)


def write_words(folder: Path) -> None:
    """Write the verb and noun lists that the tags index."""
    folder.mkdir(parents=True, exist_ok=True)
    verbs = {i: verb.phrase.replace("{}", "").split()[0] for i, verb in enumerate(VERBS)}
    (folder / "verbs.json").write_text(json.dumps(verbs, indent=1))
    (folder / "nouns.json").write_text(json.dumps(dict(enumerate(NOUNS)), indent=1))


def _record(number: int, plan: VideoPlan, place: int, action: Action) -> Record:
    return {
        "clip_idx": number,
        "video_uid": plan.uid,
        "video_dur": round(plan.duration_sec, 6),
        "narration_source": "narration_pass_1",
        "narration_ind": place,
        "narration_time": action.narration_sec,
        "clip_start": action.start_sec,
        "clip_end": action.end_sec,
        "clip_text": action.text,
        "tag_verb": str([action.verb]),
        "tag_noun": str([action.noun]),
    }


def _from_other_videos(
    plans: Sequence[VideoPlan], records: list[list[Record]], video: int, rng: np.random.Generator
) -> list[Record]:
    """Clips of four other videos; with other objects as far as there are so many."""
    order = [int(i) for i in rng.permutation(len(plans)) if i != video]
    order.sort(key=lambda i: plans[i].noun == plans[video].noun)
    chosen = order[: NUM_CHOICES - 1]
    return [records[i][int(rng.integers(len(records[i])))] for i in chosen]


def _partners(
    plan: VideoPlan, records: list[Record], action: Action, rng: np.random.Generator
) -> list[Record]:
    """Four clips of the time-reversed verb, same object, same video."""
    partner = action.verb ^ 1  # VERBS stand in pairs
    places = [i for i, other in enumerate(plan.actions) if other.verb == partner]
    return [records[i] for i in rng.permutation(places)[: NUM_CHOICES - 1]]


def _question(kind: int, answer: Record, others: list[Record], rng: np.random.Generator) -> Record:
    place = int(rng.integers(NUM_CHOICES))
    choices = [*others[:place], answer, *others[place:]]
    return {
        "answer": place,
        "types": kind,
        "query": answer,
        "choices": {str(i): choice for i, choice in enumerate(choices)},
    }
