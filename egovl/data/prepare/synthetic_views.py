"""Paired views of the rendered corpus: the same actions as features, prompts and evaluation sets.

Every other training video is taken as instructional: its clips are the exo corpus, with a spoken
sentence each; the rest are ego clips. Held-out ego clips are captioned and searched for. Features
are small pictures and their changes in time, made by a fixed linear map of each view's own: what
two feature extractors give for the same action, which nothing but training brings together.

A feature covers an eighth of a second here, so that a clip of a second has some; the retriever's
annotations count these as seconds. The captioner's annotations are in true seconds.

    views/ego_train.json, ego_val.json, exo.json    pairs, with nv_index
    views/features_ego, features_exo        stores of features
    views/charades_video_retrieval.json     one held-out ego clip and one exo clip of each action
    views/egolearn_mcq.json, egomcq.json, egosumm_mcq.json, youcook.json
    views/EPIC_100_retrieval_test.csv       EK-100's rows, times counted in features
    views/train_instructions.json, train_config.json, val_*.json
    views/exo_videos/<vid>.mp4              links to the rendered videos
    views/tokenizer.json                    byte-level tokens learned from the corpus
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.data.prepare.configs import FRAMES_PER_SEC
from egovl.data.prepare.synthetic_benchmarks import timestamp
from egovl.data.prepare.synthetic_plan import EVAL, NOUNS, TRAIN, VERBS, Action, VideoPlan
from egovl.data.second_sampling import seconds_of

FOLDER = "views"
STORES = ("features_ego", "features_exo")
PER_SEC = 8
"""Features of a second of video; the retriever's annotations count in these."""
WIDTH = 96
MOST_SUPPORTS = 15
CHOICES = 5
TASK = "0"
"""Folder that YouCook2's clips name before their video."""

_SIDE = 8  # of the small picture, pixels
_TABLE = (
    0.42  # mean brightness of the tables: what all clips share would drown what tells them apart
)
_INSTRUCTION = "Describe the main action in the video."
_SPOKEN = ("now you {}", "so let us see how one {}", "and here she {}")


@dataclass(frozen=True)
class _Clip:
    plan: VideoPlan
    action: Action

    @property
    def kind(self) -> tuple[int, int]:
        return self.action.verb, self.action.noun

    @property
    def units(self) -> tuple[float, float]:
        """Begin and end, counted in features."""
        return self.action.start_sec * PER_SEC, self.action.end_sec * PER_SEC

    @property
    def phrase(self) -> str:
        return VERBS[self.action.verb].phrase.format(NOUNS[self.action.noun])


def write_views(plans: Sequence[VideoPlan], corpus: Path, seed: int) -> None:
    """Write all of it below ``corpus/views``; every video is one file ``videos/<uid>/0.mp4``."""
    folder = corpus / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    exo_plans = [plan for plan in plans if is_instructional(plan)]
    ego = _clips(p for p in plans if p.split == TRAIN and not is_instructional(p))
    held, exo = _clips(p for p in plans if p.split == EVAL), _clips(exo_plans)
    _link_videos(corpus, folder / "exo_videos", exo_plans)
    rng = np.random.default_rng((seed, 17))
    _write_pairs(folder, ego, held, exo)
    _write_sets(folder, held, exo, rng)
    for name, clips in (("train", ego), ("val", held)):
        _write_prompts(folder, name, clips, exo, rng)
    _write_epic(corpus, folder)
    _write_tokenizer(folder / "tokenizer.json", [_spoken(clip, i) for i, clip in enumerate(exo)])


def _clips(plans: Iterable[VideoPlan]) -> list[_Clip]:
    return [_Clip(plan, action) for plan in plans for action in plan.actions]


def is_instructional(plan: VideoPlan) -> bool:
    """Every other training video stands for the instructional view."""
    return plan.split == TRAIN and plan.key[2] % 2 == 1


def write_features(plan: VideoPlan, frames: np.ndarray, corpus: Path) -> None:
    """Write the features of a video that is being rendered, in the map of its view."""
    view = int(is_instructional(plan))
    facts = FeatureFacts(fps=FRAMES_PER_SEC, width=WIDTH, layer="small pictures")
    writer = FeatureWriter(corpus / FOLDER / STORES[view], facts)
    stride = FRAMES_PER_SEC / PER_SEC
    chosen = [int((i + 0.5) * stride) for i in range(int(len(frames) / stride))]
    rng = np.random.default_rng((plan.key[0], 5, view))
    pictures = 2 * _SIDE * _SIDE * 3
    mixing = rng.normal(size=(pictures, WIDTH)) / np.sqrt(pictures)
    writer.write(plan.uid, _features(frames[chosen]) @ mixing)


def _features(frames: np.ndarray) -> np.ndarray:
    """Small pictures and what changed since the last, ``[T, 2 * side * side * 3]``."""
    height, width = (size // _SIDE for size in frames.shape[1:3])
    cut = frames[:, : height * _SIDE, : width * _SIDE].astype(np.float32) / 255
    small = cut.reshape(len(cut), _SIDE, height, _SIDE, width, 3).mean(axis=(2, 4))
    small = small.reshape(len(cut), -1)
    change = np.diff(small, axis=0, prepend=small[:1])
    return np.concatenate([(small - _TABLE) * 8, change * 32], axis=1)


def _link_videos(corpus: Path, out: Path, plans: Sequence[VideoPlan]) -> None:
    out.mkdir(exist_ok=True)
    for plan in plans:
        link = out / f"{plan.uid}.mp4"
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(corpus / "videos" / plan.uid / "0.mp4", out))


def _write_pairs(
    folder: Path, ego: Sequence[_Clip], held: Sequence[_Clip], exo: Sequence[_Clip]
) -> None:
    partners = _by_kind(exo)
    for name, clips in (("ego_train", ego), ("ego_val", held)):
        records = [
            {
                **_pair_record(clip),
                "text": "#C C " + clip.phrase,
                "nv_index": partners.get(clip.kind, []),
            }
            for clip in clips
        ]
        _write_numbered(folder / f"{name}.json", records)
    spoken = [
        {**_pair_record(clip), "text": _spoken(clip, i), "refined_text": f"person {clip.phrase}"}
        for i, clip in enumerate(exo)
    ]
    _write_numbered(folder / "exo.json", spoken)


def _pair_record(clip: _Clip) -> dict[str, Any]:
    start, end = clip.units
    return {
        "vid": clip.plan.uid,
        "uid": clip.plan.uid,
        "start_second": start,
        "end_second": end,
        "noun": [clip.action.noun],
        "verb": [clip.action.verb],
    }


def _spoken(clip: _Clip, number: int) -> str:
    return _SPOKEN[number % len(_SPOKEN)].format(clip.phrase)


def _by_kind(clips: Sequence[_Clip]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for number, clip in enumerate(clips):
        found.setdefault(clip.kind, []).append(number)
    return found


def _write_sets(
    folder: Path, held: Sequence[_Clip], exo: Sequence[_Clip], rng: np.random.Generator
) -> None:
    others, own = _by_kind(exo), _by_kind(held)
    kinds = sorted(set(others) & set(own))
    pairs = [(held[own[kind][0]], exo[others[kind][0]]) for kind in kinds]
    records = [
        {
            "ego_vid": a.plan.uid,
            "ego_start_second": a.units[0],
            "ego_end_second": a.units[1],
            "exo_vid": b.plan.uid,
            "exo_start_second": b.units[0],
            "exo_end_second": b.units[1],
        }
        for a, b in pairs
    ]
    _write_numbered(folder / "charades_video_retrieval.json", records)
    clips = [
        {
            "video_id": b.plan.uid,
            "start_second": b.units[0],
            "end_second": b.units[1],
            "task": TASK,
            "text": b.phrase,
        }
        for _, b in pairs
    ]
    _write_numbered(folder / "youcook.json", clips)
    _link_task(folder / "features_exo", {b.plan.uid for _, b in pairs})
    _write_choices(folder, pairs, rng)


def _write_epic(corpus: Path, folder: Path) -> None:
    """EK-100's held-out rows with times counted in features, which its names link to."""
    source = corpus / "ek100" / "EPIC_100_retrieval_test.csv"
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("start_timestamp", "stop_timestamp"):
            row[name] = timestamp(seconds_of(row[name]) * PER_SEC)
        video = corpus / "ek100" / "videos" / row["participant_id"] / f"{row['video_id']}.MP4"
        link = folder / STORES[0] / f"{row['video_id']}.npy"
        if not link.is_symlink():
            link.symlink_to(f"{video.resolve().parent.name}.npy")
    with (folder / source.name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _link_task(store: Path, videos: Iterable[str]) -> None:
    """The same features below the task's name, where YouCook2's are."""
    (store / TASK).mkdir(parents=True, exist_ok=True)
    for video in videos:
        link = store / TASK / f"{video}.npy"
        if not link.is_symlink():
            link.symlink_to(f"../{video}.npy")


def _write_choices(
    folder: Path, pairs: Sequence[tuple[_Clip, _Clip]], rng: np.random.Generator
) -> None:
    learn: list[dict[str, Any]] = []
    mcq: list[dict[str, Any]] = []
    summ: list[dict[str, Any]] = []
    for number in range(len(pairs)):
        others = [i for i in range(len(pairs)) if i != number]
        chosen = rng.permutation(others)[: CHOICES - 1].tolist()
        answer = int(rng.integers(0, len(chosen) + 1))
        chosen.insert(answer, number)
        for side, kind in ((0, 1), (1, 2)):
            options = {str(k): _learn_entry(pairs[i][1 - side]) for k, i in enumerate(chosen)}
            query = _learn_entry(pairs[number][side])
            learn.append({"answer": answer, "types": kind, "query": query, "choices": options})
        egos = [pairs[i][0] for i in chosen]
        text = "#C C " + pairs[number][0].phrase
        entries = {str(k): _mcq_entry(clip) for k, clip in enumerate(egos)}
        mcq.append({"answer": answer, "types": 1, "query": {"clip_text": text}, "choices": entries})
        entries = {str(k): _summ_entry(clip) for k, clip in enumerate(egos)}
        summ.append(
            {"answer": answer, "types": 1, "query": {"summary_text": text}, "choices": entries}
        )
    _write_numbered(folder / "egolearn_mcq.json", learn)
    _write_numbered(folder / "egomcq.json", mcq)
    _write_numbered(folder / "egosumm_mcq.json", summ)


def _learn_entry(clip: _Clip) -> dict[str, Any]:
    start, end = clip.units
    names = ("video_id", "start_second", "end_second", "text")
    return dict(zip(names, (clip.plan.uid, start, end, clip.phrase), strict=True))


def _mcq_entry(clip: _Clip) -> dict[str, Any]:
    start, end = clip.units
    text = "#C C " + clip.phrase
    names = ("video_uid", "clip_start", "clip_end", "clip_text")
    return dict(zip(names, (clip.plan.uid, start, end, text), strict=True))


def _summ_entry(clip: _Clip) -> dict[str, Any]:
    start, end = clip.units
    names = ("vid", "start_sec", "end_sec", "summary_text")
    return dict(zip(names, (clip.plan.uid, start, end, clip.phrase), strict=True))


def _write_prompts(
    folder: Path,
    name: str,
    clips: Sequence[_Clip],
    exo: Sequence[_Clip],
    rng: np.random.Generator,
) -> None:
    """Records and supports of a split; supports show the same action, as true retrieval would."""
    partners = _by_kind(exo)
    records: dict[str, Any] = {}
    supports: dict[str, list[str]] = {}
    used: dict[int, str] = {}
    for clip in clips:
        same = partners.get(clip.kind)
        if not same:
            continue
        key = f"SYN_INS_{len(records):06d}"
        records[key] = _prompt_record(clip, "#C C " + clip.phrase)
        chosen = rng.permutation(same)[:MOST_SUPPORTS].tolist()
        for number in chosen:
            if number not in used:
                used[number] = f"SYN_INS_{len(records):06d}"
                records[used[number]] = _prompt_record(exo[number], _spoken(exo[number], number))
        supports[key] = [used[number] for number in chosen]
        records[key]["rel_ins_ids"] = supports[key]
    _write_json(folder / f"{name}_instructions.json", {"data": records})
    _write_json(folder / f"{name}_config.json", supports)


def _prompt_record(clip: _Clip, answer: str) -> dict[str, Any]:
    place = {
        "vid": clip.plan.uid,
        "uid": clip.plan.uid,
        "start_second": clip.action.start_sec,
        "end_second": clip.action.end_sec,
    }
    return {
        "instruction": _INSTRUCTION,
        "answer": answer,
        "chat_answer": answer,
        "image_ids": [place],
        "rel_ins_ids": [],
    }


def _write_tokenizer(path: Path, texts: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(  # pyright: ignore[reportCallIssue]
        vocab_size=380,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    answers = [f"#C C {text.partition(' ')[2]}." for text in texts]
    questions = [f"User:{_INSTRUCTION.lower()} GPT:"] * len(texts)
    tokenizer.train_from_iterator([*texts, *answers, *questions], trainer)
    tokenizer.save(str(path))


def _write_numbered(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    _write_json(path, {str(number): record for number, record in enumerate(records)})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
