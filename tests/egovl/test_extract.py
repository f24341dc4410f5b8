"""Features of videos: which frames a window shows, whole stores, stops, shares, bad videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.config import ConfigError
from egovl.convert.save import save_weights
from egovl.convert.unpickle import CheckpointError
from egovl.data.datasets.configs import VideoWindowsConfig
from egovl.data.features import open_features
from egovl.engine.checkpoint import Checkpointer, TrainState
from egovl.engine.folder import RunFolder
from egovl.extract import extract
from egovl.recipe import Recipe, dump_model, load_recipe
from egovl.run import initialize
from tests.architecture.source import ROOT
from tests.egovl.data.numbered_video import SIZE, write_video


def make_manifest(folder: Path, names: dict[str, int], chunk_frames: int = 30) -> Path:
    lines = []
    for name, count in names.items():
        frames = [min(chunk_frames, count - k) for k in range(0, count, chunk_frames)]
        files = [f"{name}/{k}.mp4" for k in range(len(frames))]
        for k, file in enumerate(files):
            write_video(folder / file, frames[k], first_number=k * chunk_frames)
        record = {"key": name, "files": files, "frames": frames, "fps": 30.0}
        lines.append(json.dumps(record | {"height": SIZE, "width": SIZE}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


def test_windows_stand_at_their_rate_across_chunks(tmp_path: Path) -> None:
    config = VideoWindowsConfig(
        manifest=make_manifest(tmp_path, {"long": 75, "short": 6}),
        fps=7.5,
        window_frames=4,
        stride_frames=2,
    )
    dataset = config.build()
    assert dataset.names == ["long", "short"]
    assert [dataset.num_windows(k) for k in range(2)] == [8, 1]  # 18 samples, 1 sample
    assert [dataset[k].clips[0].frames for k in (0, 1)] == [(0, 4, 8, 12), (8, 12, 16, 20)]
    assert dataset[7].clips[0].frames == (56, 60, 64, 68)
    assert dataset[8].clips[0].frames == (0, 4, 5, 5)
    assert [dict(dataset[k].labels)["window"] for k in (7, 8)] == [7, 0]
    assert dataset[8].labels["video"] == 1
    path, local = dataset[7].clips[0].video.place_of(64)
    assert (path.name, local) == ("2.mp4", 4)
    assert dataset.only({"short"}).names == ["short"]


def test_a_video_of_ones_own_is_named_after_its_file(tmp_path: Path) -> None:
    write_video(tmp_path / "mine.mp4", 40, rate=15)
    dataset = VideoWindowsConfig(files=(tmp_path / "mine.mp4",), fps=5).build()
    assert dataset.names == ["mine"]
    assert dataset[1].clips[0].frames == (12, 15, 18, 21)
    with pytest.raises(ValueError, match="no videos"):
        VideoWindowsConfig()
    with pytest.raises(ValueError, match="two videos are called 'mine'"):
        VideoWindowsConfig(files=(tmp_path / "mine.mp4",) * 2).build()


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """The debug recipe on small videos, with random weights from a file."""
    manifest = make_manifest(tmp_path, {"a": 75, "b": 40, "c": 33})

    def load(*words: str) -> Recipe:
        sizes = [
            *("model.video.width=32", "model.video.depth=1", "model.video.heads=2"),
            *("model.text.width=32", "model.text.depth=1", "model.text.heads=2"),
        ]
        weights = tmp_path / "weights.safetensors"
        places = [
            f"features.dataset.manifest={manifest}",
            f"features.out={tmp_path / 'store'}",
            "features.loader.num_workers=0",
            f"init={{origin: auto, file: {weights}}}",
        ]
        found = load_recipe(ROOT / "configs/debug/features.yaml", [*sizes, *places, *words])
        if not weights.exists():
            torch.manual_seed(3)
            model = found.model.build()
            save_weights(weights, model.state_dict(), config=dump_model(found.model), step=0)
        return found

    return load


def test_a_store_holds_what_the_model_says_and_its_facts(recipe: Callable[..., Recipe]) -> None:
    found = recipe()
    done = extract(found)
    assert done.is_whole and done.metrics == {"videos": 3.0, "failed": 0.0}
    assert found.features is not None and found.init is not None
    store = open_features(found.features.out)
    assert list(store.names()) == ["a", "b", "c"]
    facts = store.facts
    assert (facts.fps, facts.window_frames, facts.stride_frames) == (8.0, 4, 4)
    assert (facts.width, facts.layer, facts.projection) == (64, "cls", True)
    assert facts.weight_sha256 == done.inputs["init.file"]
    assert len(str(facts.weight_sha256)) == 64
    model = found.model.build()
    initialize(model, found)
    model.eval()
    from egovl.data.loader import build_eval_loader
    from egovl.data.transforms import normalize_video

    dataset = found.features.dataset.build()
    expected: dict[str, list[np.ndarray]] = {name: [] for name in dataset.names}
    for batch in build_eval_loader(dataset, found.features.loader, None, rank=0, world_size=1):
        with torch.no_grad():
            pixels = normalize_video(batch.video[:, 0], "clip")
            rows = model.video_projection(model.video(pixels)).numpy()
        for number, row in zip(batch.labels["video"].tolist(), rows, strict=True):
            expected[dataset.names[number]].append(row)
    for name, rows in expected.items():
        np.testing.assert_allclose(store.read(name), np.stack(rows), atol=1e-5)


def test_a_run_of_another_model_is_refused_with_where_its_model_stands(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model = recipe().model.build()
    optimizer = torch.optim.SGD(model.parameters())
    Checkpointer(RunFolder(run, 1)).save(TrainState(1, 4), model, optimizer, wait=True)
    other = recipe("model.video.width=64", f"init.file={run}")
    with pytest.raises(CheckpointError, match=r"\(1, 1, 32\) in the checkpoint.*run/config\.yaml"):
        initialize(other.model.build(), other)


def test_a_stopped_extraction_goes_on_and_shares_add_up(recipe: Callable[..., Recipe]) -> None:
    asked: list[int] = []

    def second_batch() -> bool:
        asked.append(1)
        return len(asked) > 1

    small = recipe("features.loader.eval_batch_size=3")
    assert not extract(small, second_batch).is_whole
    assert small.features is not None
    first = set(open_features(small.features.out).names())
    assert first < {"a", "b", "c"}
    shares = [extract(recipe(f"features.shard={k}", "features.shards=2")) for k in (0, 1)]
    assert sum(share.metrics["videos"] for share in shares) == 3
    assert set(open_features(small.features.out).names()) == {"a", "b", "c"}


def test_other_features_do_not_go_into_the_same_store(recipe: Callable[..., Recipe]) -> None:
    extract(recipe())
    with pytest.raises(ValueError, match="projection True, now False"):
        extract(recipe("features.task.projection=false"))
    with pytest.raises(ValueError, match=r"window_frames is 8, loader\.num_frames 4"):
        recipe("features.dataset.window_frames=8")


def test_a_bad_video_is_left_out_where_the_recipe_says_so(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "b/0.mp4").write_bytes(b"nothing")
    skipping = ("features.loader.on_error=skip", "features.loader.max_bad_fraction=0.9")
    done = extract(recipe(*skipping))
    assert done.metrics == {"videos": 2.0, "failed": 1.0}
    assert list(open_features(tmp_path / "store").names()) == ["a", "c"]


def test_clips_of_a_benchmark_are_stored_under_their_own_names(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    clips = [
        {"clip_uid": uid, "video_start_sec": start, "video_end_sec": end}
        for uid, start, end in (("first", 0.0, 1.2), ("second", 0.4, 2.5))
    ]
    content = {"videos": [{"video_uid": "a", "clips": clips}]}
    (tmp_path / "moments.json").write_text(json.dumps(content))
    dataset = {
        "name": "episodic",
        "annotations": str(tmp_path / "moments.json"),
        "video_root": str(tmp_path),
        "layout": "egovlp",
        "chunk_sec": 1,
        "features_per_sec": 4,
    }
    whole = recipe(f"features.dataset={dataset}")
    assert extract(whole).metrics == {"videos": 2.0, "failed": 0.0}
    store = open_features(tmp_path / "store")
    assert (store.facts.fps, store.facts.features_per_sec) == (16.0, 4.0)
    assert [len(store.read(name)) for name in ("first", "second")] == [5, 8]
    cut = [f"features.out={tmp_path / 'cut'}", "features.task.legacy_zero_tail=true"]
    extract(recipe(f"features.dataset={dataset}", *cut))
    rows, released = store.read("first"), open_features(tmp_path / "cut").read("first")
    np.testing.assert_allclose(released[:4], rows[:4], atol=1e-5)
    assert rows[4].any() and not released[4].any()
    with pytest.raises(ConfigError, match="dataset egoclip has no windows"):
        recipe("features.dataset={name: egoclip, annotations: a.csv, video_root: .}")


@pytest.mark.slow
def test_the_command_takes_a_video_of_ones_own(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe()
    write_video(tmp_path / "my holiday.mp4", 60)
    words = [
        *("--config", "configs/debug/features.yaml", "--video", str(tmp_path / "my holiday.mp4")),
        *("model.video.width=32", "model.video.depth=1", "model.video.heads=2"),
        *("model.text.width=32", "model.text.depth=1", "model.text.heads=2"),
        f"init={{origin: auto, file: {tmp_path / 'weights.safetensors'}}}",
        f"features.out={tmp_path / 'own'}",
        "features.loader.num_workers=0",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "egovl", "extract", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    store = open_features(tmp_path / "own")
    assert list(store.names()) == ["my holiday"]
    assert store.read("my holiday").shape == (4, 64)
    wrong = subprocess.run(
        [sys.executable, "-m", "egovl", "extract", "--config", "configs/debug/smoke.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "no features: or tokens: section" in wrong.stderr
