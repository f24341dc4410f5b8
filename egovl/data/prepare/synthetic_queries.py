"""Clips of minutes with questions about moments in them, chained from the rendered videos.

Stretches of videos of different objects follow each other without decoding, so that every object
is handled in one moment of a clip. Written as Ego4D's NLQ json and EgoClip's narrations, in the
released formats:

    nlq/videos/<clip_uid>.mp4, nlq/manifest.jsonl
    nlq/nlq_train.json nlq_val.json nlq_test_unannotated.json   questions, some of them empty
    nlq/moments_train.json                                      more clips, narrated only
    nlq/egoclip.csv                                             narrations of the training clips
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.datasets.egoclip_table import COLUMNS
from egovl.data.manifest import MANIFEST
from egovl.data.prepare.configs import FRAMES_PER_SEC
from egovl.data.prepare.encode import KEYFRAME_INTERVAL, Stretch, chain_videos
from egovl.data.prepare.synthetic_plan import EVAL, NOUNS, TRAIN, Action, VideoPlan

FOLDER = "nlq"
CLIP_START_SEC = 30.0
"""Where a clip begins in its video; what is before was never rendered."""
MOST_MOMENTS = 22
QUESTIONS = 8  # of a clip
_ACTIONS = (4, 9)  # of a moment, fewest and most
_TEMPLATES = (
    "Where did I handle the {}?",
    "When was I busy with the {}?",
    "What did I do with the {}?",
)
_EMPTY_EVERY = 9  # questions


@dataclass(frozen=True)
class QueryCounts:
    """How many clips of each kind are made."""

    train: int = 30
    narrated: int = 60
    """Training clips without questions."""
    val: int = 12
    test: int = 4


@dataclass(frozen=True, eq=False)
class _Moment:
    """Consecutive actions of one video, cut at keyframes."""

    plan: VideoPlan
    actions: tuple[Action, ...]
    first_frame: int
    end_frame: int

    @property
    def seconds(self) -> float:
        return (self.end_frame - self.first_frame) / FRAMES_PER_SEC


@dataclass(frozen=True, eq=False)
class _Clip:
    uid: str
    video_uid: str
    moments: tuple[_Moment, ...]
    rng: np.random.Generator

    @property
    def starts_sec(self) -> np.ndarray:
        """Where each moment begins in the clip."""
        lengths = [moment.seconds for moment in self.moments]
        return np.concatenate([[0.0], np.cumsum(lengths)])

    @property
    def duration_sec(self) -> float:
        return float(self.starts_sec[-1])


def write_queries(
    plans: Sequence[VideoPlan], corpus: Path, seed: int, counts: QueryCounts | None = None
) -> Path:
    """Write the clips of a rendered corpus and their annotations; those that are there stay.

    Returns:
        Their folder.
    """
    folder = corpus / FOLDER
    if folder.is_dir():
        return folder
    partial = corpus / f".{FOLDER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "videos").mkdir(parents=True)
    counts = counts or QueryCounts()
    by_split = [[p for p in plans if p.split == split] for split in (TRAIN, EVAL)]
    kinds = (
        ("train", by_split[TRAIN], counts.train),
        ("narrated", by_split[TRAIN], counts.narrated),
        ("val", by_split[EVAL], counts.val),
        ("test", by_split[EVAL], counts.test),
    )
    clips = {
        name: [_plan_clip(own, (seed, kind, number)) for number in range(count)]
        for kind, (name, own, count) in enumerate(kinds)
    }
    with (partial / MANIFEST).open("w", encoding="utf-8") as manifest:
        for clip in (clip for group in clips.values() for clip in group):
            manifest.write(json.dumps(_chain(clip, corpus, partial)) + "\n")
    _write_questions(partial / "nlq_train.json", "train", clips["train"])
    _write_questions(partial / "nlq_val.json", "val", clips["val"])
    _write_questions(partial / "nlq_test_unannotated.json", "test", clips["test"])
    _write_json(partial / "moments_train.json", "train", [_clip(c) for c in clips["narrated"]])
    _write_narrations(partial / "egoclip.csv", [*clips["train"], *clips["narrated"]])
    os.replace(partial, folder)
    return folder


def _plan_clip(plans: Sequence[VideoPlan], key: tuple[int, int, int]) -> _Clip:
    """Moments of different objects, in random order."""
    rng = np.random.default_rng((*key, 7))
    uids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(2)]
    chosen: dict[int, VideoPlan] = {}
    for place in rng.permutation(len(plans)).tolist():
        chosen.setdefault(plans[place].noun, plans[place])
    kept = list(chosen.values())[:MOST_MOMENTS]
    moments = tuple(_cut_moment(plan, rng) for plan in kept)
    return _Clip(uids[0], uids[1], moments, rng)


def _cut_moment(plan: VideoPlan, rng: np.random.Generator) -> _Moment:
    count = int(rng.integers(_ACTIONS[0], _ACTIONS[1] + 1))
    start = int(rng.integers(0, len(plan.actions) - count + 1))
    actions = plan.actions[start : start + count]
    step = KEYFRAME_INTERVAL
    first = int(actions[0].start_sec * FRAMES_PER_SEC) // step * step
    end = -(-int(np.ceil(actions[-1].end_sec * FRAMES_PER_SEC)) // step) * step
    return _Moment(plan, actions, first, min(end, plan.num_frames))


def _chain(clip: _Clip, corpus: Path, folder: Path) -> dict[str, Any]:
    stretches = [
        Stretch(corpus / "videos" / m.plan.uid / "0.mp4", m.first_frame, m.end_frame)
        for m in clip.moments
    ]
    name = f"videos/{clip.uid}.mp4"
    height, width = chain_videos(folder / name, stretches, FRAMES_PER_SEC)
    frames = sum(m.end_frame - m.first_frame for m in clip.moments)
    return {
        "key": clip.uid,
        "files": [name],
        "frames": [frames],
        "fps": float(FRAMES_PER_SEC),
        "height": height,
        "width": width,
    }


def _write_questions(path: Path, split: str, clips: Sequence[_Clip]) -> None:
    entries = []
    number = 0
    for clip in clips:
        queries = []
        for place in clip.rng.permutation(len(clip.moments))[:QUESTIONS].tolist():
            queries.append(_question(clip, place, split, is_empty=number % _EMPTY_EVERY == 4))
            number += 1
        annotation = {"annotation_uid": f"{clip.uid[:23]}-question", "language_queries": queries}
        entries.append(_clip(clip) | {"annotations": [annotation]})
    _write_json(path, split, entries)


def _question(clip: _Clip, place: int, split: str, *, is_empty: bool) -> dict[str, Any]:
    moment, offset = clip.moments[place], float(clip.starts_sec[place])
    template = _TEMPLATES[int(clip.rng.integers(len(_TEMPLATES)))]
    entry: dict[str, Any] = {
        "query": "" if is_empty else template.format(NOUNS[moment.plan.noun]),
        "template": template.format("X"),
    }
    if split == "test":
        return {"query": entry["query"]}
    first_sec = moment.first_frame / FRAMES_PER_SEC
    start = offset + moment.actions[0].start_sec - first_sec
    end = offset + moment.actions[-1].end_sec - first_sec
    times = {"clip_start_sec": round(start, 4), "clip_end_sec": round(end, 4)}
    in_video = {f"video_{k[5:]}": round(v + CLIP_START_SEC, 4) for k, v in times.items()}
    return entry | times | in_video


def _clip(clip: _Clip) -> dict[str, Any]:
    return {
        "clip_uid": clip.uid,
        "video_start_sec": CLIP_START_SEC,
        "video_end_sec": CLIP_START_SEC + clip.duration_sec,
        "clip_start_sec": 0.0,
        "clip_end_sec": clip.duration_sec,
        "source_clip_uid": clip.uid,
        "video_uid": clip.video_uid,
    }


def _write_json(path: Path, split: str, clips: Sequence[dict[str, Any]]) -> None:
    videos = [
        {"video_uid": clip.pop("video_uid"), "split": split, "clips": [clip]} for clip in clips
    ]
    content = {"version": "1", "date": "", "description": "rendered", "videos": videos}
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_narrations(path: Path, clips: Sequence[_Clip]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        rows = [row for clip in clips for row in _narrations(clip)]
        writer.writerows((number, *row) for number, row in enumerate(rows))


def _narrations(clip: _Clip) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for moment, start_sec in zip(clip.moments, clip.starts_sec, strict=False):
        shift = CLIP_START_SEC + float(start_sec) - moment.first_frame / FRAMES_PER_SEC
        for action in moment.actions:
            times = (action.narration_sec, action.start_sec, action.end_sec)
            shifted = (round(time + shift, 4) for time in times)
            source = f"narration_pass_{1 + len(rows) % 2}"
            duration = CLIP_START_SEC + clip.duration_sec
            row = (clip.video_uid, duration, source, len(rows), *shifted, action.text)
            rows.append((*row, [action.verb], [action.noun]))
    return rows
