"""Render the synthetic corpus: real mp4 chunks and annotations in the real datasets' formats.

::

    <out>/train/egoclip.csv  <out>/train/videos/<uid>/<k>.mp4      2,600 narrated clips
    <out>/eval/egomcq.json   <out>/eval/videos/<uid>/<k>.mp4       held-out videos
    <out>/words/{verbs,nouns}.json   <out>/corpus.json             written last: the corpus is whole
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from egovl.data.prepare.configs import FRAMES_PER_SEC, SyntheticConfig
from egovl.data.prepare.encode import encode_video
from egovl.data.prepare.synthetic_annotations import write_egoclip, write_egomcq, write_words
from egovl.data.prepare.synthetic_plan import EVAL, VideoPlan, plan_videos
from egovl.data.prepare.synthetic_scene import render_video

MARK = "corpus.json"
FOLDERS = ("train", "eval")


class CorpusError(ValueError):
    """The folder holds something else."""


@dataclass(frozen=True)
class CorpusReport:
    """What a corpus holds."""

    videos: int
    clips: int
    questions: int
    frames: int
    is_new: bool


def render_corpus(config: SyntheticConfig, out: Path, workers: int | None = None) -> CorpusReport:
    """Render a corpus, or take the one that is there; an interrupted one is gone on with.

    Raises:
        CorpusError: `out` holds a corpus of other options, or other files.
    """
    found = _read_mark(config, out)
    if found is not None:
        return found
    plans = plan_videos(config)
    out.mkdir(parents=True, exist_ok=True)
    _write_options(config, out)
    train = [plan for plan in plans if plan.split != EVAL]
    held_out = [plan for plan in plans if plan.split == EVAL]
    for folder in FOLDERS:
        (out / folder).mkdir(exist_ok=True)
    clips = write_egoclip(out / "train/egoclip.csv", train)
    questions = write_egomcq(out / "eval/egomcq.json", held_out, config.seed)
    write_words(out / "words")
    jobs = [(plan, config, out) for plan in plans]
    count = min(workers or os.cpu_count() or 1, len(jobs))
    bar = tqdm(total=len(jobs), desc=f"rendering {out}", unit="video")
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool, bar:
        frames = 0
        for rendered in pool.map(_render_one, jobs, chunksize=2):
            frames += rendered
            bar.update()
    report = CorpusReport(len(plans), clips, questions, frames, is_new=True)
    _write_atomically(out / MARK, {"options": asdict(config), **asdict(report)})
    return report


def _render_one(job: tuple[VideoPlan, SyntheticConfig, Path]) -> int:
    plan, config, out = job
    folder = out / FOLDERS[plan.split] / "videos" / plan.uid
    done = folder / ".whole"
    if done.exists():
        return plan.num_frames
    shutil.rmtree(folder, ignore_errors=True)
    frames = render_video(plan, config.size)
    per_chunk = config.chunk_sec * FRAMES_PER_SEC
    chunks = np.split(frames, range(per_chunk, len(frames), per_chunk))
    for number, chunk in enumerate(chunks):
        encode_video(folder / f"{number}.mp4", chunk, FRAMES_PER_SEC)
    done.touch()
    return plan.num_frames


def _read_mark(config: SyntheticConfig, out: Path) -> CorpusReport | None:
    """The report of a whole corpus with these options; None where there is none yet."""
    if not out.exists() or not any(out.iterdir()):
        return None
    for name in (MARK, ".options.json"):
        if not (out / name).exists():
            continue
        record = json.loads((out / name).read_text())
        wanted, there = asdict(config), record["options"]
        differing = [f"{k} {there.get(k)} there, {v} asked" for k, v in wanted.items()
                     if there.get(k) != v]  # fmt: skip
        if differing:
            raise CorpusError(
                f"{out} holds a corpus of other options ({'; '.join(differing)}): "
                "name another --out, or remove the folder"
            )
        if name == MARK:
            counts = {k: record[k] for k in ("videos", "clips", "questions", "frames")}
            return CorpusReport(**counts, is_new=False)
        return None
    raise CorpusError(f"{out} is not empty and holds no corpus: name another --out")


def _write_options(config: SyntheticConfig, out: Path) -> None:
    _write_atomically(out / ".options.json", {"options": asdict(config)})


def _write_atomically(path: Path, record: dict[str, object]) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)
