from __future__ import annotations

import csv
import fcntl
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from egovl.data.prepare import synthetic
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import CorpusError, render_corpus
from egovl.data.prepare.synthetic_plan import plan_videos
from egovl.data.prepare.synthetic_scene import render_video
from tests.egovl.data.prepare.conftest import SMALL

TINY = SyntheticConfig(seed=1, train_videos=1, eval_videos=5, size=32)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_video_decodes_to_its_planned_frames(small_corpus: Path) -> None:
    for plan in plan_videos(SMALL):
        folder = small_corpus / "videos" / plan.uid
        assert [path.name for path in folder.iterdir()] == ["0.mp4"]
        frames = decode(folder / "0.mp4")
        assert frames.shape == (plan.num_frames, 32, 32, 3)
        drawn = render_video(plan, 32)
        # yuv420 halves the colour resolution, so single pixels at edges differ more.
        assert np.abs(frames.astype(int) - drawn).mean() < 8
        assert max(action.end_sec for action in plan.actions) <= plan.duration_sec


def test_mp4_is_h264_at_30_fps_with_close_keyframes_and_no_b_frames(small_corpus: Path) -> None:
    path = next((small_corpus / "videos").glob("*/0.mp4"))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.average_rate) == ("h264", 30)
        assert stream.codec_context.has_b_frames is False
        packets = [p for p in container.demux(stream) if p.size]
    assert all(p.pts == p.dts for p in packets)
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, len(packets)])) <= 15


def test_short_chunks_hold_the_same_frames_in_a_row(tmp_path: Path) -> None:
    render_corpus(TINY, tmp_path / "whole")
    render_corpus(replace(TINY, chunk_sec=2), tmp_path / "chunked")
    crossings = 0
    for plan in plan_videos(TINY):
        folder = tmp_path / "chunked" / "videos" / plan.uid
        count = len(list(folder.iterdir()))
        assert count == -(-plan.num_frames // 60) > 1
        chunks = [decode(folder / f"{k}.mp4") for k in range(count)]
        assert all(len(chunk) == 60 for chunk in chunks[:-1])
        whole = decode(tmp_path / "whole" / "videos" / plan.uid / "0.mp4")
        joined = np.concatenate(chunks)
        assert joined.shape == whole.shape
        assert np.abs(joined.astype(int) - whole).mean() < 8
        crossings += sum(a.start_sec // 2 != a.end_sec // 2 for a in plan.actions)
    assert crossings > 0
    whole_csv = (tmp_path / "whole" / "egoclip.csv").read_bytes()
    assert (tmp_path / "chunked" / "egoclip.csv").read_bytes() == whole_csv


def test_same_seed_gives_same_bytes_whatever_the_number_of_workers(
    small_corpus: Path, tmp_path: Path
) -> None:
    render_corpus(SMALL, tmp_path / "again", workers=2)
    assert files_below(tmp_path / "again") == files_below(small_corpus)


def test_another_seed_gives_other_videos_and_texts(small_corpus: Path, tmp_path: Path) -> None:
    render_corpus(replace(SMALL, seed=4), tmp_path / "other")
    first, second = (
        {row["video_uid"] for row in csv.DictReader(path.open(), delimiter="\t")}
        for path in (small_corpus / "egoclip.csv", tmp_path / "other" / "egoclip.csv")
    )
    assert not first & second


def test_rerun_with_the_same_options_changes_nothing_and_says_so(small_corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_corpus.rglob("*")}
    report = render_corpus(SMALL, small_corpus)
    assert report.was_there
    assert (report.videos, report.train_clips, report.intra_video_questions) == (10, 80, 120)
    assert {path: path.stat().st_mtime_ns for path in small_corpus.rglob("*")} == before


def test_other_options_into_the_same_folder_are_refused_by_name(small_corpus: Path) -> None:
    with pytest.raises(CorpusError, match="eval_videos is 6, asked 9"):
        render_corpus(replace(SMALL, eval_videos=9), small_corpus)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CorpusError, match="choose another folder"):
        render_corpus(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def _wait_for_the_lock(lock: Path) -> None:
    """Until no worker of a killed renderer is left."""
    deadline = time.monotonic() + 60
    with lock.open("w") as file:
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "a worker outlived the renderer by a minute"
                time.sleep(0.05)


def test_a_killed_run_leaves_no_corpus_and_the_next_one_finishes_it(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    command = [
        sys.executable,
        "-m",
        "egovl",
        "prepare",
        "synthetic",
        "--workers",
        "2",
        "--out",
        str(out),
    ]
    options = ["--train-videos", "30", "--eval-videos", "8", "--size", "32"]
    run = subprocess.Popen([*command, *options], stderr=subprocess.PIPE)
    assert run.stderr is not None
    videos = tmp_path / "corpus.partial" / "videos"
    while run.poll() is None and len(list(videos.glob("[!.]*"))) < 3:
        run.stderr.read(1)
    run.kill()
    run.communicate()
    assert run.returncode != 0
    assert not out.exists()
    _wait_for_the_lock(tmp_path / "corpus.partial" / "lock")
    kept = {path: path.stat().st_mtime_ns for path in videos.glob("[!.]*/0.mp4")}
    assert 3 <= len(kept) < 38

    again = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "38 videos" in again.stdout
    assert not (tmp_path / "corpus.partial").exists()
    assert sorted(path.name for path in out.iterdir()) == [
        "captions",
        "charades_ego",
        "corpus.json",
        "egoclip.csv",
        "egomcq.json",
        "egtea",
        "ek100",
        "gpt2",
        "manifest.jsonl",
        "moments",
        "narrations",
        "state_change",
        "summaries",
        "videos",
        "views",
    ]
    assert not list(out.rglob(".*")), "no half-written file stays"
    assert len(list((out / "videos").iterdir())) == 38
    for path, modified in kept.items():
        moved = out / "videos" / path.parent.name / "0.mp4"
        assert moved.stat().st_mtime_ns == modified


def test_a_half_made_corpus_with_other_options_is_refused(tmp_path: Path) -> None:
    partial = tmp_path / "corpus.partial"
    partial.mkdir()
    options = {"format": synthetic.FORMAT, **vars(replace(TINY, seed=9))}
    (partial / "options.json").write_text(json.dumps(options))
    with pytest.raises(CorpusError, match="seed is 9, asked 1"):
        render_corpus(TINY, tmp_path / "corpus")


def test_two_renderers_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    partial = tmp_path / "corpus.partial"
    partial.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            "file = open(sys.argv[1], 'w')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\n"
            "time.sleep(60)",
            str(partial / "lock"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(CorpusError, match="another process"):
            render_corpus(TINY, tmp_path / "corpus")
    finally:
        holder.kill()
        holder.communicate()
    shutil.rmtree(partial)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 63), ("size", 16), ("chunk_sec", 0), ("eval_videos", 4), ("train_videos", 0)],
)
def test_an_impossible_option_is_named_with_what_is_allowed(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}: must be"):
        replace(TINY, **{field: value})
