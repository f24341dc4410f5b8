"""Render the synthetic corpus: real mp4 chunks with EgoClip and EgoMCQ annotations.

    python -m egovl prepare synthetic --out data/synthetic

Layout of the folder:
    videos/<video_uid>/<k>.mp4   h264 chunks, addressed as EgoVLP's
    egoclip.csv                  narrations of the training videos
    egomcq.json                  questions over the held-out videos
    summaries/                   what synthetic_summaries.py tells of stretches and whole videos
    corpus.json                  what was rendered, with which options
    views/                       paired views of the same actions, see synthetic_views.py
    gpt2/                        a tokenizer of the narrations, in GPT-2's files
    ek100/ charades_ego/ egtea/ state_change/ moments/ narrations/ captions/
                                 the same actions in those formats, where every video is one file

Everything is made in `<out>.partial` and renamed at the end, so a folder called `<out>` is whole.
A stopped run goes on where it was: videos already in `<out>.partial` are kept.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egovl.data.manifest import MANIFEST
from egovl.data.prepare.configs import FRAMES_PER_SEC, SyntheticConfig
from egovl.data.prepare.encode import encode_video
from egovl.data.prepare.synthetic_annotations import (
    INTER_VIDEO,
    INTRA_VIDEO,
    write_egoclip,
    write_egomcq,
)
from egovl.data.prepare.synthetic_benchmarks import (
    chance_percent,
    cut_actions,
    write_benchmarks,
)
from egovl.data.prepare.synthetic_narrator import write_narrator_files
from egovl.data.prepare.synthetic_plan import NOUNS, VERBS, VideoPlan, plan_videos
from egovl.data.prepare.synthetic_scene import render_video
from egovl.data.prepare.synthetic_summaries import write_summaries
from egovl.data.prepare.synthetic_views import write_features, write_views

REPORT_NAME = "corpus.json"
FORMAT = 6  # raise when the same options would render something else


@dataclass(frozen=True)
class CorpusReport:
    """What a corpus folder holds."""

    folder: Path
    videos: int
    frames: int
    train_clips: int
    inter_video_questions: int
    intra_video_questions: int
    was_there: bool
    """True when the folder was already whole and nothing was rendered."""


class CorpusError(Exception):
    """The output folder cannot be used; the message says what to do."""


def render_corpus(config: SyntheticConfig, out: Path, *, workers: int = 1) -> CorpusReport:
    """Render the corpus of `config` into the folder `out`, or find it there.

    The number of worker processes does not change a byte of the annotations or a pixel.

    Raises:
        CorpusError: `out` holds something else, a corpus with other options, or is being written.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: must be 1 or more")
    found = _find_corpus(config, out)
    if found is not None:
        return found
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with _lock(partial):
        _claim_options(config, partial)
        plans = plan_videos(config)
        _render_videos(config, plans, partial / "videos", workers)
        report = _write_annotations(config, plans, partial)
        (partial / "options.json").unlink()
        (partial / "lock").unlink()
        os.replace(partial, out)
    return _report(out, report, was_there=False)


def _find_corpus(config: SyntheticConfig, out: Path) -> CorpusReport | None:
    if not out.exists():
        return None
    if not out.is_dir():
        raise CorpusError(f"{out} is a file: choose another folder")
    if not (out / REPORT_NAME).is_file():
        if any(out.iterdir()):
            raise CorpusError(
                f"{out} holds files but no {REPORT_NAME}, so it is no rendered corpus: "
                "choose another folder"
            )
        return None
    stored = json.loads((out / REPORT_NAME).read_text(encoding="utf-8"))
    _check_same_options(stored["options"], _options(config), out)
    return _report(out, stored, was_there=True)


def _options(config: SyntheticConfig) -> dict[str, int]:
    return {"format": FORMAT, **asdict(config)}


def _check_same_options(stored: dict[str, int], asked: dict[str, int], folder: Path) -> None:
    names = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
    if names:
        listed = ", ".join(f"{n} is {stored.get(n)}, asked {asked.get(n)}" for n in names)
        raise CorpusError(
            f"{folder} was rendered with other options ({listed}): "
            "ask for those, choose another folder, or remove this one"
        )


@contextmanager
def _lock(partial: Path) -> Iterator[None]:
    """Hold `partial` alone; the lock goes with the process, however it ends."""
    with (partial / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CorpusError(f"{partial} is being rendered by another process") from error
        yield


def _claim_options(config: SyntheticConfig, partial: Path) -> None:
    path = partial / "options.json"
    if path.is_file():
        _check_same_options(json.loads(path.read_text()), _options(config), partial)
        return
    _write_json(path, _options(config))


def _render_videos(
    config: SyntheticConfig, plans: list[VideoPlan], videos: Path, workers: int
) -> None:
    missing = [plan for plan in plans if not (videos / plan.uid).is_dir()]
    bar = tqdm(total=len(plans), initial=len(plans) - len(missing), unit="video", desc="render")
    with bar:
        if workers == 1:
            for plan in missing:
                _render_one(config, plan, videos)
                bar.update()
            return
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            jobs = [pool.submit(_render_one, config, plan, videos) for plan in missing]
            for job in jobs:
                job.result()
                bar.update()


def _end_with_parent() -> None:
    """Of a killed renderer no worker stays: it would wait for work and hold the folder's lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _render_one(config: SyntheticConfig, plan: VideoPlan, videos: Path) -> None:
    folder = videos / plan.uid
    unfinished = videos / f".{plan.uid}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    frames = render_video(plan, config.size)
    if _is_whole(config, plan) and plan.key[2] < config.trimmed_videos:
        cut_actions(plan, frames, videos.parent)
    write_features(plan, frames, videos.parent)
    per_chunk = config.chunk_sec * FRAMES_PER_SEC
    for number, start in enumerate(range(0, len(frames), per_chunk)):
        chunk = frames[start : start + per_chunk]
        encode_video(unfinished / f"{number}.mp4", chunk, FRAMES_PER_SEC)
    os.replace(unfinished, folder)


def _is_whole(config: SyntheticConfig, plan: VideoPlan) -> bool:
    return plan.num_frames <= config.chunk_sec * FRAMES_PER_SEC


def _write_annotations(
    config: SyntheticConfig, plans: list[VideoPlan], folder: Path
) -> dict[str, Any]:
    train_clips = write_egoclip(plans, folder / "egoclip.csv")
    _write_manifest(config, plans, folder)
    questions = write_egomcq(plans, folder / "egomcq.json", config.seed)
    write_narrator_files(plans, folder)
    num_summary_questions = write_summaries(
        plans, folder / "egoclip.csv", folder / "summaries", config.seed
    )
    if all(_is_whole(config, plan) for plan in plans):
        write_benchmarks(plans, folder, config.seed, config.trimmed_videos)
        write_views(plans, folder, config.seed)
    report = {
        "options": _options(config),
        "videos": len(plans),
        "frames": sum(plan.num_frames for plan in plans),
        "train_clips": train_clips,
        "inter_video_questions": questions[INTER_VIDEO],
        "intra_video_questions": questions[INTRA_VIDEO],
        "summary_questions": num_summary_questions,
        "fps": FRAMES_PER_SEC,
        "verbs": [verb.phrase.format("...") for verb in VERBS],
        "nouns": list(NOUNS),
        "chance_percent": chance_percent(),
    }
    _write_json(folder / REPORT_NAME, report)
    return report


def _write_manifest(config: SyntheticConfig, plans: list[VideoPlan], folder: Path) -> None:
    """The same lines as `prepare videos` writes."""
    per_chunk = config.chunk_sec * FRAMES_PER_SEC
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for plan in plans:
            starts = range(0, plan.num_frames, per_chunk)
            record = {
                "key": plan.uid,
                "files": [f"videos/{plan.uid}/{number}.mp4" for number in range(len(starts))],
                "frames": [min(per_chunk, plan.num_frames - start) for start in starts],
                "fps": FRAMES_PER_SEC,
                "height": config.size,
                "width": config.size,
            }
            file.write(json.dumps(record) + "\n")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(unfinished, path)


def _report(folder: Path, stored: dict[str, Any], *, was_there: bool) -> CorpusReport:
    return CorpusReport(
        folder=folder,
        videos=stored["videos"],
        frames=stored["frames"],
        train_clips=stored["train_clips"],
        inter_video_questions=stored["inter_video_questions"],
        intra_video_questions=stored["intra_video_questions"],
        was_there=was_there,
    )
