"""`prepare videos`: shards, one manifest, bad videos, stops, and the recipes that read it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from egovl.data.configs import EgoClipConfig, EgoMCQConfig, LoaderConfig
from egovl.data.loader import build_eval_loader
from egovl.data.manifest import load_manifest
from egovl.data.prepare.configs import VideosConfig
from egovl.data.prepare.videos import find_videos, prepare_videos
from tests.architecture.source import ROOT
from tests.egovl.data.numbered_video import read_numbers, write_egoclip, write_egomcq, write_video


@pytest.fixture
def config(tmp_path: Path) -> VideosConfig:
    for number, name in enumerate(("a", "sub/b", "c")):
        path = tmp_path / f"source/{name}.mp4"
        write_video(path, 45 + 15 * number, first_number=1000 * number)
    (tmp_path / "source/bad.mp4").write_bytes(b"no video at all")
    return VideosConfig(
        source=tmp_path / "source",
        out=tmp_path / "out",
        layout="egovlp",
        chunk_sec=1,
        short_side=None,
        workers=2,
    )


def test_good_videos_come_into_the_manifest_and_bad_ones_are_named(config: VideosConfig) -> None:
    report = prepare_videos(config)
    assert (report.made, report.left, set(report.failed)) == (3, 0, {"bad"})
    videos = load_manifest(config.out / "manifest.jsonl")
    assert {name: video.frames for name, video in videos.items()} == {
        "a": (30, 15),
        "c": (30, 30, 15),
        "sub/b": (30, 30),
    }
    assert all((config.out / file).is_file() for v in videos.values() for file in v.files)
    [failed] = map(json.loads, (config.out / "failed.jsonl").read_text().splitlines())
    assert failed["key"] == "bad" and "Invalid data" in failed["error"]


def test_a_second_run_makes_only_what_is_missing(config: VideosConfig) -> None:
    prepare_videos(config)
    (config.out / "a/1.mp4").unlink()
    write_video(config.source / "bad.mp4", 30)
    report = prepare_videos(config)
    assert (report.made, report.were_there, report.failed) == (2, 2, {})
    assert set(load_manifest(config.out / "manifest.jsonl")) == {"a", "bad", "c", "sub/b"}
    assert not (config.out / "failed.jsonl").read_text()


def test_the_last_shard_writes_the_manifest_of_all(config: VideosConfig) -> None:
    reports = [prepare_videos(replace(config, shard=shard, shards=3)) for shard in (2, 0, 1)]
    assert [report.manifest is None for report in reports] == [True, True, False]
    assert set(load_manifest(config.out / "manifest.jsonl")) == {"a", "c", "sub/b"}
    assert [json.loads(x)["key"] for x in (config.out / "failed.jsonl").open()] == ["bad"]
    # another number of shards finds it all done
    again = [prepare_videos(replace(config, shard=shard, shards=2)) for shard in (0, 1)]
    assert [report.made for report in again] == [0, 0]


def test_a_subset_can_be_widened_later(config: VideosConfig) -> None:
    assert prepare_videos(replace(config, subset=1)).made == 1
    assert set(load_manifest(config.out / "manifest.jsonl")) == {"a"}
    assert prepare_videos(config).made == 2
    assert set(load_manifest(config.out / "manifest.jsonl")) == {"a", "c", "sub/b"}


def test_chunks_of_two_kinds_are_never_mixed(config: VideosConfig) -> None:
    prepare_videos(config)
    with pytest.raises(ValueError, match=r"made otherwise \(chunk_sec 1, asked 2\)"):
        prepare_videos(replace(config, chunk_sec=2))


def test_listed_videos_only(config: VideosConfig, tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("c\nsub/b\n")
    assert list(find_videos(replace(config, only=tmp_path / "only.txt"))) == ["c", "sub/b"]
    (tmp_path / "only.txt").write_text("c\nabsent\n")
    with pytest.raises(FileNotFoundError, match="absent"):
        find_videos(replace(config, only=tmp_path / "only.txt"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_videos(replace(config, source=tmp_path / "no"))


@pytest.mark.parametrize(("layout", "second"), [("lavila", "a.mp4/1.mp4"), ("egovlp", "a/1.mp4")])
def test_chunks_lie_where_the_readers_of_a_layout_look(
    config: VideosConfig, layout: str, second: str
) -> None:
    prepare_videos(replace(config, layout=layout, subset=1))
    assert load_manifest(config.out / "manifest.jsonl")["a"].files[1] == second


def test_a_recipe_leaves_out_what_the_manifest_lacks(config: VideosConfig, tmp_path: Path) -> None:
    prepare_videos(config)
    rows = [(uid, 0.5, 1.4, "#C C cuts", [1], [2]) for uid in ("a", "absent", "c", "bad")]
    table = write_egoclip(tmp_path / "egoclip.csv", rows)
    clips = EgoClipConfig(
        annotations=table,
        video_root=config.out,
        chunk_sec=1,
        manifest=config.out / "manifest.jsonl",
    )
    dataset = clips.build()
    assert [dataset[i].clips[0].video.path.name for i in range(len(dataset))] == ["a", "c"]
    loader = LoaderConfig(num_frames=4, image_size=64, num_workers=0)
    [batch] = build_eval_loader(dataset, loader, None, rank=0, world_size=1)
    assert batch.video is not None
    frames = batch.video[0, 0].permute(1, 2, 3, 0).numpy()
    assert read_numbers(frames) == sorted(read_numbers(frames))
    assert min(read_numbers(frames)) >= 15 and max(read_numbers(frames)) <= 42
    assert len(replace(clips, manifest=None).build()) == 4
    questions = write_egomcq(tmp_path / "egomcq.json", 4, ["a", "c", "absent"])
    asked = EgoMCQConfig(
        annotations=questions, video_root=config.out, manifest=config.out / "manifest.jsonl"
    )
    with pytest.raises(ValueError, match="the videos of none of its 4 rows"):
        asked.build()


COMMAND = [sys.executable, "-m", "egovl", "prepare"]


def _yaml(config: VideosConfig) -> list[str]:
    path = config.source.parent / "prepare.yaml"
    path.write_text(
        f"source: {config.source}\nout: {config.out}\nlayout: egovlp\nchunk_sec: 1\n"
        "short_side: null\nworkers: 1\n"
    )
    return ["--config", str(path)]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_a_killed_command_goes_on_and_a_run_folder_hears_of_it(config: VideosConfig) -> None:
    write_video(config.source / "long.mp4", 1500)
    words = ["videos", *_yaml(config)]
    process = subprocess.Popen([*COMMAND, *words], cwd=ROOT, start_new_session=True)
    until = time.monotonic() + 60
    while not list(config.out.glob("long/[0-9]*.mp4")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in config.out.glob("long/[0-9]*.mp4")}
    assert kept
    run_dir = config.source.parent / "run"
    folder = {"EGOVL_RUN_DIR": str(run_dir), "EGOVL_ATTEMPT": "1"}
    done = run(*words, **folder)
    assert done.returncode == 0, done.stderr
    assert "bad: cannot decode" in done.stdout
    assert [path.stat().st_mtime_ns for path in kept] == list(kept.values())
    assert load_manifest(config.out / "manifest.jsonl")["long"].num_frames == 1500
    assert not list(config.out.rglob(".*.part*"))
    exit_file = json.loads((run_dir / "attempts/1/exit/0.json").read_text())
    assert (exit_file["state"], exit_file["world_size"]) == ("done", 1)
    metrics = json.loads((run_dir / "result.json").read_text())["metrics"]
    assert metrics["failed"] == 1 and metrics["made"] + metrics["were_there"] == 4


def test_wrong_words_end_with_2_and_say_what_is_right(config: VideosConfig) -> None:
    for words, message in (
        (["short_sdie=3"], "did you mean 'short_side'"),
        (["layout=file"], "chunk_sec=1.0: must be null with layout=file"),
        (["--shard", "3"], "write I/N"),
        (["--shard", "3/2"], "shard=3: must be in 0 .. 1"),
    ):
        done = run("videos", *_yaml(config), *words)
        assert done.returncode == 2, words
        assert message in done.stderr, done.stderr
    done = run("--check", "videos", *_yaml(config), "source=/no/such/folder")
    assert done.returncode == 2 and "/no/such/folder" in done.stderr
    assert run("--check", "--no-files", "videos", *_yaml(config), "source=/no").returncode == 0
