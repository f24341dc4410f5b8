from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.configs import LoaderConfig
from egovl.data.datasets.configs import (
    CC3MConfig,
    CharadesEgoConfig,
    EGTEAConfig,
    EpicClassificationConfig,
    EpicRetrievalConfig,
    EpisodicConfig,
    NarrationsConfig,
    OSCCConfig,
    PNRConfig,
    WebVidConfig,
)
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic_benchmarks import STATE_ATTRIBUTE, num_actions
from egovl.data.prepare.synthetic_plan import NOUNS, VERBS, plan_videos
from tests.egovl.data.prepare.conftest import SMALL


@pytest.fixture
def datasets(small_corpus: Path, tmp_path: Path) -> dict[str, object]:
    ek100, charades = small_corpus / "ek100", small_corpus / "charades_ego"
    egtea, state = small_corpus / "egtea", small_corpus / "state_change"
    epic = {
        "annotations": ek100 / "EPIC_100_retrieval_test.csv",
        "video_root": ek100 / "videos",
    }
    tables = tuple(ek100 / f"EPIC_100_retrieval_{split}.csv" for split in ("train", "test"))
    states = {
        "annotations": state / "fho_oscc-pnr_val.json",
        "video_root": small_corpus / "videos",
        "extracted": False,
    }
    lists = small_corpus / "narrations"
    videos = {"video_root": egtea / "clips", "cache_folder": tmp_path}
    return {
        "ek100_mir": EpicRetrievalConfig(
            **epic, sentences=ek100 / "EPIC_100_retrieval_test_sentence.csv"
        ).build(),
        "ek100_cls": EpicClassificationConfig(**epic, action_tables=tables).build(),
        "charades_ego": CharadesEgoConfig(
            annotations=charades / "CharadesEgo_v1_test_only1st.csv",
            classes=charades / "Charades_v1_classes.txt",
            video_root=charades / "videos",
        ).build(),
        "egtea": EGTEAConfig(
            annotations=egtea / "test_split1.txt",
            classes=egtea / "action_idx.txt",
            video_root=egtea / "clips",
        ).build(),
        "episodic": EpisodicConfig(
            annotations=small_corpus / "moments/moments_val.json",
            video_root=small_corpus / "videos",
            layout="egovlp",
        ).build(),
        "oscc": OSCCConfig(**states).build(),
        "pnr": PNRConfig(**states).build(),
        "narrations": NarrationsConfig(
            annotations=(lists / "ego4d_train.pkl",),
            pseudo=(lists / "ego4d_train.narrator.pkl",),
            video_root=small_corpus / "videos",
            cache_folder=tmp_path,
        ).build(),
        "webvid": WebVidConfig(
            annotations=small_corpus / "captions" / "webvid_validation.csv", **videos
        ).build(),
        "cc3m": CC3MConfig(
            annotations=small_corpus / "captions" / "cc3m_validation.csv",
            video_root=small_corpus / "captions" / "pictures",
            cache_folder=tmp_path,
        ).build(),
    }


def test_every_benchmark_is_read_by_its_dataset_and_its_files_decode(
    datasets: dict[str, object],
) -> None:
    sizes = {name: len(dataset) for name, dataset in datasets.items()}  # type: ignore[arg-type]
    trimmed = 20 * SMALL.trimmed_videos
    assert sizes["ek100_mir"] == sizes["ek100_cls"] == 20 * SMALL.eval_videos
    assert sizes["charades_ego"] == SMALL.eval_videos
    assert sizes["egtea"] == sizes["webvid"] == sizes["cc3m"] == trimmed
    assert sizes["narrations"] == 2 * 20 * SMALL.train_videos
    reader = ClipReader(LoaderConfig(num_frames=4, sampling="range"))
    for name, dataset in datasets.items():
        for index in (0, sizes[name] - 1):
            clip = dataset[index].clips[0]  # type: ignore[index]
            (frames,) = reader.read([ClipRequest(clip, None)])
            assert isinstance(frames, np.ndarray), f"{name}: {frames}"
            assert frames.shape[1:] == (32, 32, 3)


def test_labels_and_texts_tell_what_happens(datasets: dict[str, object]) -> None:
    plans = [plan for plan in plan_videos(SMALL) if plan.split == 1]
    actions = [(plan, action) for plan in plans for action in plan.actions]
    for index, (_, action) in enumerate(actions):
        sample = datasets["ek100_cls"][index]  # type: ignore[index]
        assert (sample.labels["verb"], sample.labels["noun"]) == (action.verb, action.noun)
        assert sample.texts[0] == VERBS[action.verb].phrase.format(NOUNS[action.noun])
        clip = sample.clips[0]
        assert clip.span.start_sec == pytest.approx(action.start_sec, abs=1e-3)
    for index, plan in enumerate(plans):
        sample = datasets["charades_ego"][index]  # type: ignore[index]
        assert set(sample.labels["action"]) == {a.verb * len(NOUNS) + a.noun for a in plan.actions}
    _, action = actions[7]
    sample = datasets["egtea"][7]  # type: ignore[index]
    assert sample.labels["action"] == action.verb * len(NOUNS) + action.noun
    assert sample.texts[0] == VERBS[action.verb].phrase.format(NOUNS[action.noun])


def test_classes_with_the_same_texts_count_everywhere_alike(small_corpus: Path) -> None:
    lines = (small_corpus / "charades_ego/Charades_v1_classes.txt").read_text().splitlines()
    actions = (small_corpus / "egtea/action_idx.txt").read_text().splitlines()
    assert len(lines) == len(actions) == num_actions() == 192
    assert lines[25] == f"c025 {VERBS[1].phrase.format(NOUNS[1])}"
    chance = json.loads((small_corpus / "corpus.json").read_text())["chance_percent"]
    assert chance["ek100_verb"] == 12.5
    assert chance["oscc"] == 50.0


def test_half_of_the_windows_hold_a_change_of_state_and_it_may_stand_anywhere(
    datasets: dict[str, object],
) -> None:
    oscc, pnr = datasets["oscc"], datasets["pnr"]
    counts = Counter(oscc[i].labels["state_change"] for i in range(len(oscc)))  # type: ignore[index,arg-type]
    assert counts[0] == counts[1] == len(pnr) > 10  # type: ignore[arg-type]
    places = Counter(pnr[i].labels["keyframe"] for i in range(len(pnr)))  # type: ignore[index,arg-type]
    assert len(places) >= 5
    assert max(places.values()) < 0.5 * len(pnr)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_window_without_a_change_shows_nothing_of_one_and_looks_like_its_partner(
    small_corpus: Path, name: str
) -> None:
    file = small_corpus / f"state_change/fho_oscc-pnr_{name}.json"
    clips = json.loads(file.read_text())["clips"]
    plans = {plan.uid: plan for plan in plan_videos(SMALL)}
    assert len({clip["unique_id"] for clip in clips}) == len(clips) > 10
    with_change = Counter(clip["video_uid"] for clip in clips if clip["state_change"])
    without = Counter(clip["video_uid"] for clip in clips if not clip["state_change"])
    assert with_change == without
    for clip in clips:
        changes = [
            action
            for action in plans[clip["video_uid"]].actions
            if VERBS[action.verb].attribute == STATE_ATTRIBUTE
            and action.start_sec < clip["parent_end_sec"]
            and action.end_sec > clip["parent_start_sec"]
        ]
        assert bool(changes) == clip["state_change"]


def test_moments_lie_in_their_clips_and_are_not_lost_between_them(small_corpus: Path) -> None:
    videos = json.loads((small_corpus / "moments/moments_val.json").read_text())["videos"]
    assert len(videos) == SMALL.trimmed_videos
    for video in videos:
        lengths = [clip["video_end_sec"] - clip["video_start_sec"] for clip in video["clips"]]
        labels = [clip["annotations"][0]["labels"] for clip in video["clips"]]
        assert 18 <= sum(map(len, labels)) <= 20  # one may lie across the middle
        for length, inside in zip(lengths, labels, strict=True):
            assert all(0 <= m["start_time"] < m["end_time"] <= length + 1e-6 for m in inside)


def test_sentences_are_unique_and_belong_to_their_first_row(small_corpus: Path) -> None:
    folder = small_corpus / "ek100"
    with (folder / "EPIC_100_retrieval_test_sentence.csv").open(newline="") as file:
        sentences = list(csv.DictReader(file))
    with (folder / "EPIC_100_retrieval_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [row["narration"] for row in sentences]
    assert len(texts) == len(set(texts)) == len({row["narration"] for row in rows})
    first = {row["narration"]: row["narration_id"] for row in reversed(rows)}
    assert all(first[row["narration"]] == row["narration_id"] for row in sentences)


def test_a_corpus_cut_into_chunks_has_no_benchmarks_that_need_whole_files(tmp_path: Path) -> None:
    from egovl.data.prepare.synthetic import render_corpus

    render_corpus(
        SyntheticConfig(train_videos=1, size=32, eval_videos=5, chunk_sec=5), tmp_path / "c"
    )
    assert (tmp_path / "c" / "egomcq.json").is_file()
    assert not (tmp_path / "c" / "ek100").exists()
    assert not (tmp_path / "c" / "egtea").exists()
