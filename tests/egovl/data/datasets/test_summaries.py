"""Summaries and the narrations below them, in every layout; summaries as clips."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from egovl.data.datasets.egoclip_table import COLUMNS, BadRowError
from egovl.data.datasets.long_video_configs import (
    ClipsAndSummariesConfig,
    SpreadConfig,
    SummariesConfig,
)
from egovl.data.datasets.summaries import choose_narrations, short_clip
from egovl.data.datasets.summary_hierarchy import write_hierarchy
from egovl.data.randomness import SampleRandom
from tests.egovl.data.numbered_video import write_egoclip

NARRATIONS = [
    ("a", 10.0, 11.0, "#C C turns a screw", [1], [2]),
    ("a", 2.0, 3.0, "#C C lifts a wheel", [3], [4]),
    ("a", 59.5, 61.0, "#C C crosses the end", [], []),
    ("a", 60.0, 62.0, "#C C starts anew", [], []),
    ("b", 5.0, 6.0, "#C C cuts an onion", [], []),
]
SUMMARIES = [
    ("a", 0.0, 60.0, "#Summary C fixed a bike", "[37]", "[511, 3]"),
    ("b", 0.0, 100.0, "#Summary C fixed a bike", "", ""),
    ("c", 50.0, 300.0, "#Summary C slept", "[]", "[]"),
]


def write_summaries(path: Path) -> Path:
    lines = ["\t".join(COLUMNS)]
    for uid, start, end, text, verbs, nouns in SUMMARIES:
        cells = ["", uid, "", "raw", "", "", start, end, text, verbs, nouns]
        lines.append("\t".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_egoclip(tmp_path / "egoclip.csv", NARRATIONS)
    write_summaries(tmp_path / "egosummary_full.csv")
    (tmp_path / "videos").mkdir()
    return tmp_path


def config(folder: Path, **options: Any) -> SummariesConfig:
    where = {"annotations": folder / "egosummary_full.csv", "video_root": folder / "videos"}
    if "hierarchy" not in options:
        options = {"narrations": folder / "egoclip.csv", **options}
    return SummariesConfig(**{**where, "num_narrations": 2, **options})


def test_a_sample_holds_clips_summary_narrations_and_the_summarys_tags(folder: Path) -> None:
    dataset = config(folder).build()
    sample = dataset[0]
    assert len(sample.clips) == 16
    assert sample.texts == ("#Summary C fixed a bike",)
    assert sample.children == ("#C C lifts a wheel", "#C C turns a screw")
    assert dict(sample.labels) == {"verb": [37], "noun": [511, 3], "num_clips": 16}
    assert sample.clips[0].span.start_sec == 0 and sample.clips[-1].span.end_sec == 59.0
    assert dataset[1].labels["verb"] == []
    assert dataset.chunk_of(2) == (2, 0)


def test_a_summary_without_narrations_stands_for_itself(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample = config(folder).build()[2]
    assert sample.children == ("#Summary C slept",) * 2
    assert "#Summary C slept" in caplog.text


def test_equal_summaries_of_two_videos_keep_their_own_narrations_in_our_layout(
    folder: Path,
) -> None:
    ours = folder / "ours.json"
    assert write_hierarchy(folder / "egosummary_full.csv", folder / "egoclip.csv", ours) == 3
    for dataset in (config(folder).build(), config(folder, hierarchy=ours).build()):
        assert dataset[0].children == ("#C C lifts a wheel", "#C C turns a screw")
        assert dataset[1].children == ("#C C cuts an onion",) * 2
    entry = json.loads(ours.read_text())[0]
    assert entry["tag_noun"] == ["[4]", "[2]"] and entry["summary_end"] == 60.0


def test_the_released_layout_is_found_by_text_and_a_folder_by_row(folder: Path) -> None:
    entry = {"clip_text": ["#C C sings"]}
    by_text = folder / "by_text.json"
    by_text.write_text(json.dumps({"#Summary C fixed a bike": entry}))
    dataset = config(folder, hierarchy=by_text).build()
    assert [dataset[i].children[0] for i in range(3)] == [
        "#C C sings",
        "#C C sings",
        "#Summary C slept",
    ]
    parts = folder / "parts"
    parts.mkdir()
    (parts / "x.json").write_text(json.dumps({"idx": 1, "#Summary C fixed a bike": entry}))
    dataset = config(folder, hierarchy=parts).build()
    assert dataset[0].children[0] == "#Summary C fixed a bike"
    assert dataset[1].children[0] == "#C C sings"


def test_only_narrations_of_the_same_pass_count_where_asked(folder: Path) -> None:
    # EgoClip's rows say narration_pass_1, the summaries' raw
    assert config(folder, same_source=True).build()[0].children == ("#Summary C fixed a bike",) * 2


def test_narrations_are_drawn_at_each_visit_in_the_order_of_time(folder: Path) -> None:
    rows = [("a", i + 0.25, i + 0.75, f"n{i}", [], []) for i in range(30)]
    write_egoclip(folder / "egoclip.csv", rows)
    dataset = config(folder, num_narrations=4).build()
    visits = [dataset.draw_sample(0, SampleRandom(0, epoch, 0)).children for epoch in range(5)]
    assert len(set(visits)) > 1
    for visit in visits:
        numbers = [int(text[1:]) for text in visit]
        assert numbers == sorted(set(numbers))
    assert dataset[0].children == ("n0", "n10", "n19", "n29")


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0] * 5), (3, [0, 1, 2, 0, 1])])
def test_few_narrations_are_taken_in_turn(count: int, expected: list[int]) -> None:
    assert choose_narrations(count, 5, lambda n, k: pytest.fail("nothing to draw")) == expected


@pytest.mark.parametrize(
    ("field", "message"), [({"hierarchy": Path("x"), "narrations": Path("y")}, "not both")]
)
def test_one_source_of_narrations_is_needed(
    folder: Path, field: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(folder, **field)


def test_a_broken_row_is_named(folder: Path) -> None:
    path = folder / "egosummary_full.csv"
    path.write_text(
        path.read_text() + "\t".join(["", "d", *[""] * 4, "9", "8", "x", "", ""]) + "\n"
    )
    with pytest.raises(BadRowError, match=r"line 5.*hold no time"):
        config(folder).build()
    assert len(config(folder, on_bad_row="skip").build()) == 3


def test_summaries_stand_behind_the_clips_with_a_short_clip_inside_their_time(
    folder: Path,
) -> None:
    options: Any = {
        "annotations": folder / "egoclip.csv",
        "summaries": folder / "egosummary_full.csv",
        "video_root": folder / "videos",
    }
    dataset = ClipsAndSummariesConfig(**options).build()
    assert len(dataset) == 8
    assert dataset[1].texts == ("#C C lifts a wheel",)
    for row, (_, start, end, text, *_) in enumerate(SUMMARIES):
        sample = dataset[5 + row]
        span = sample.clips[0].span
        assert sample.texts == (text,)
        assert start <= span.start_sec and span.end_sec <= end
        assert 1.5 <= span.end_sec - span.start_sec <= 3.0
    assert dataset[5] == dataset[5]
    assert list(dataset[5].labels["noun"]) == [511, 3]  # type: ignore[arg-type]
    numbers = dataset.chunk_numbers()
    assert len(set(numbers[5:].tolist()) & set(numbers[:5].tolist())) == 0
    assert sorted(dataset.time_order.tolist()) == list(range(8))


def test_the_legacy_short_clip_lies_before_the_summary() -> None:
    draws = [short_clip(50.0, 300.0, random.Random(i), legacy_before=True) for i in range(50)]
    assert all(0 <= start <= 46 and 1.5 <= end - start <= 3.0 for start, end in draws)
    early = [short_clip(1.0, 300.0, random.Random(i), legacy_before=True) for i in range(50)]
    assert all(start == 0 and end > 0 for start, end in early)


def test_a_long_video_with_fewer_clips_says_how_many(folder: Path) -> None:
    spread = SpreadConfig(num_clips=8, sec_per_clip=30.0, clip_sec=5.0)
    dataset = config(folder, spread=spread).build()
    assert [dataset[i].labels["num_clips"] for i in range(3)] == [2, 3, 8]
    clips = dataset[0].clips
    assert len(clips) == 8 and len(set(clips)) == 2 and clips[1] == clips[7]
