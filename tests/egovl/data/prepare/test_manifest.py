"""A manifest that lacks videos: every dataset leaves their rows out, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egovl.data.configs import EgoClipConfig
from egovl.data.datasets.configs import (
    CharadesEgoConfig,
    EGTEAConfig,
    EpicClassificationConfig,
    EpicRetrievalConfig,
    NarrationsConfig,
    OSCCConfig,
    WebVidConfig,
)
from egovl.data.manifest import load_manifest
from tests.architecture.source import ROOT


def write_manifest(path: Path, names: Sequence[str]) -> Path:
    facts = {"files": ["0.mp4"], "frames": [30], "fps": 30, "height": 32, "width": 32}
    path.write_text("".join(json.dumps({"key": name, **facts}) + "\n" for name in names))
    return path


def epic(corpus: Path) -> dict[str, Path]:
    folder = corpus / "ek100"
    return {
        "annotations": folder / "EPIC_100_retrieval_test.csv",
        "video_root": folder / "videos",
    }


CONFIGS: dict[str, Callable[[Path], Any]] = {
    "egoclip": lambda corpus: EgoClipConfig(
        annotations=corpus / "egoclip.csv", video_root=corpus / "videos"
    ),
    "narrations": lambda corpus: NarrationsConfig(
        annotations=(corpus / "narrations/ego4d_train.pkl",), video_root=corpus / "videos"
    ),
    "webvid": lambda corpus: WebVidConfig(
        annotations=corpus / "captions/webvid_validation.csv", video_root=corpus / "egtea/clips"
    ),
    "ek100_mir": lambda corpus: EpicRetrievalConfig(
        **epic(corpus), sentences=corpus / "ek100/EPIC_100_retrieval_test_sentence.csv"
    ),
    "ek100_cls": lambda corpus: EpicClassificationConfig(
        **epic(corpus), action_tables=(epic(corpus)["annotations"],)
    ),
    "charades_ego": lambda corpus: CharadesEgoConfig(
        annotations=corpus / "charades_ego/CharadesEgo_v1_test_only1st.csv",
        classes=corpus / "charades_ego/Charades_v1_classes.txt",
        video_root=corpus / "charades_ego/videos",
    ),
    "egtea": lambda corpus: EGTEAConfig(
        annotations=corpus / "egtea/test_split1.txt",
        classes=corpus / "egtea/action_idx.txt",
        video_root=corpus / "egtea/clips",
    ),
    "oscc": lambda corpus: OSCCConfig(
        annotations=corpus / "state_change/fho_oscc-pnr_val.json",
        video_root=corpus / "videos",
        extracted=False,
    ),
}


def videos_of(dataset: Any, root: Path) -> list[str]:
    paths = [dataset[k].clips[0].video.path for k in range(len(dataset))]
    return [path.relative_to(root).with_suffix("").as_posix() for path in paths]


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_videos_that_a_manifest_lacks_are_left_out(
    small_corpus: Path, tmp_path: Path, name: str
) -> None:
    config = CONFIGS[name](small_corpus)
    if hasattr(config, "cache_folder"):
        config = replace(config, cache_folder=tmp_path)
    everything = videos_of(config.build(), config.video_root)
    known = sorted(set(everything))[::2]
    manifest = write_manifest(tmp_path / "manifest.jsonl", known)
    kept = videos_of(replace(config, manifest=manifest).build(), config.video_root)
    assert kept == [video for video in everything if video in known]
    assert 0 < len(kept) < len(everything)
    write_manifest(manifest, ["nobody"])
    with pytest.raises(ValueError, match="the videos of none of its"):
        replace(config, manifest=manifest).build()


def test_sentences_of_videos_that_are_not_there_are_not_searched(
    small_corpus: Path, tmp_path: Path
) -> None:
    config = CONFIGS["ek100_mir"](small_corpus)
    some = videos_of(config.build(), config.video_root)[:1]
    manifest = write_manifest(tmp_path / "manifest.jsonl", some)
    dataset = replace(config, manifest=manifest).build()
    numbers = [dataset[k].labels["sentence"] for k in range(len(dataset))]
    assert sorted(n for n in numbers if n >= 0) == list(range(len(dataset.sentence_rows)))
    with pytest.raises(ValueError, match="set one of them to null"):
        replace(config, manifest=manifest, relevancy=manifest)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names no video"), ("{}\n", "line 1"), ("no json\n", "line 1")],
)
def test_a_broken_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_manifest(tmp_path / "manifest.jsonl")
    with pytest.raises(FileNotFoundError, match="run `prepare videos` to its end"):
        load_manifest(tmp_path / "absent.jsonl")


def test_the_rendered_corpus_has_a_manifest_of_its_videos(small_corpus: Path) -> None:
    videos = load_manifest(small_corpus / "manifest.jsonl")
    assert len(videos) == 10
    for name, video in videos.items():
        assert [f"videos/{name}/{k}.mp4" for k in range(len(video.files))] == list(video.files)
        assert all((small_corpus / file).is_file() for file in video.files)


def test_annotations_are_converted_before_a_run_needs_them(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from egovl.__main__ import main

    words = [
        f"train.dataset.annotations={small_corpus / 'egoclip.csv'}",
        f"train.dataset.video_root={small_corpus / 'videos'}",
        f"train.dataset.cache_folder={tmp_path}",
        f"evaluate.egomcq.dataset.annotations={small_corpus / 'egomcq.json'}",
        f"evaluate.egomcq.dataset.video_root={small_corpus / 'videos'}",
    ]
    recipe = str(ROOT / "configs/debug/smoke.yaml")
    assert main(["prepare", "annotations", "--config", recipe, *words]) == 0
    shown = capsys.readouterr().out
    assert "train: egoclip, 80 samples" in shown and "egomcq: egomcq, " in shown
    assert list(tmp_path.glob("egoclip.csv.egoclip-*/numbers.arrow"))
    assert main(["prepare", "annotations", "--config", recipe, "train.dataset.annotations=no"]) == 2
