from __future__ import annotations

import ast
import csv
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

HEADER = (
    "clip_idx\tvideo_uid\tvideo_dur\tnarration_source\tnarration_ind\tnarration_time\t"
    "clip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\n"
)


def read_egoclip(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "egoclip.csv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_egomcq(corpus: Path) -> list[dict]:
    questions = json.loads((corpus / "egomcq.json").read_text())
    assert list(questions) == [str(i) for i in range(len(questions))]
    return list(questions.values())


def test_egoclip_has_the_real_header_and_every_cell_its_type(small_corpus: Path) -> None:
    lines = (small_corpus / "egoclip.csv").read_bytes().decode("ascii").splitlines(keepends=True)
    assert lines[0] == HEADER
    assert all(line.count("\t") == 10 and line.endswith("\n") and '"' not in line for line in lines)
    rows = read_egoclip(small_corpus)
    assert len(rows) == 4 * 20
    for index, row in enumerate(rows):
        assert int(row["clip_idx"]) == index
        assert row["narration_source"] == "narration_pass_1"
        assert int(row["narration_ind"]) == index % 20
        assert row["clip_text"].startswith("#C C ")
        assert 0 <= float(row["clip_start"]) < float(row["narration_time"])
        assert float(row["narration_time"]) < float(row["clip_end"]) <= float(row["video_dur"])
        for tag, classes in (("tag_verb", 118), ("tag_noun", 582)):
            value = ast.literal_eval(row[tag])
            assert isinstance(value, list) and len(value) == 1
            assert 0 <= value[0] < classes


def test_clip_length_is_the_videos_mean_gap_over_the_mean_of_all_gaps(small_corpus: Path) -> None:
    by_video = defaultdict(list)
    for row in read_egoclip(small_corpus):
        by_video[row["video_uid"]].append(row)
    alphas = []
    for rows in by_video.values():
        beta = np.mean(
            [float(b["narration_time"]) - float(a["narration_time"]) for a, b in pairwise(rows)]
        )
        for row in rows:
            half = (float(row["clip_end"]) - float(row["clip_start"])) / 2
            middle = (float(row["clip_end"]) + float(row["clip_start"])) / 2
            assert middle == pytest.approx(float(row["narration_time"]), abs=1e-5)
            alphas.append(beta / (2 * half))
        assert all(float(a["clip_end"]) < float(b["clip_start"]) for a, b in pairwise(rows))
    assert np.ptp(alphas) < 1e-3
    assert np.mean(alphas) == pytest.approx(1.3, rel=0.1)


def test_tags_name_one_verb_and_one_object_each(small_corpus: Path) -> None:
    corpus = json.loads((small_corpus / "corpus.json").read_text())
    for row in read_egoclip(small_corpus):
        verb, noun = ast.literal_eval(row["tag_verb"])[0], ast.literal_eval(row["tag_noun"])[0]
        phrase = corpus["verbs"][verb].replace("...", corpus["nouns"][noun])
        assert row["clip_text"] == "#C C " + phrase


def test_egomcq_has_the_real_fields_and_the_answer_is_the_query(small_corpus: Path) -> None:
    questions = read_egomcq(small_corpus)
    fields = HEADER.strip().split("\t")
    assert Counter(q["types"] for q in questions) == {1: 120, 2: 120}
    for question in questions:
        assert list(question) == ["answer", "types", "query", "choices"]
        assert list(question["choices"]) == ["0", "1", "2", "3", "4"]
        assert question["choices"][str(question["answer"])] == question["query"]
        for record in (question["query"], *question["choices"].values()):
            assert list(record) == fields
            assert isinstance(record["clip_start"], float) and isinstance(record["tag_verb"], str)
            assert 0 <= record["clip_start"] < record["clip_end"] <= record["video_dur"]
        texts = [choice["clip_text"] for choice in question["choices"].values()]
        assert texts.count(question["query"]["clip_text"]) == 1


def test_no_place_among_the_choices_is_right_more_often(small_corpus: Path) -> None:
    places = Counter((q["types"], q["answer"]) for q in read_egomcq(small_corpus))
    assert len(places) == 10
    assert set(places.values()) == {24}


def test_intra_video_choices_share_video_and_object_and_only_the_answer_runs_forwards(
    small_corpus: Path,
) -> None:
    questions = [q for q in read_egomcq(small_corpus) if q["types"] == 2]
    for question in questions:
        choices = list(question["choices"].values())
        assert len({c["video_uid"] for c in choices}) == 1
        assert len({c["tag_noun"] for c in choices}) == 1
        verbs = Counter(ast.literal_eval(c["tag_verb"])[0] for c in choices)
        verb = ast.literal_eval(question["query"]["tag_verb"])[0]
        assert verbs == {verb: 1, verb ^ 1: 4}
        assert len({c["clip_start"] for c in choices}) == 5


def test_inter_video_choices_come_from_five_videos_and_objects(small_corpus: Path) -> None:
    questions = [q for q in read_egomcq(small_corpus) if q["types"] == 1]
    for question in questions:
        choices = list(question["choices"].values())
        assert len({c["video_uid"] for c in choices}) == 5
        assert len({c["tag_noun"] for c in choices}) == 5


def test_training_and_held_out_videos_are_disjoint(small_corpus: Path) -> None:
    train = {row["video_uid"] for row in read_egoclip(small_corpus)}
    held_out = {c["video_uid"] for q in read_egomcq(small_corpus) for c in q["choices"].values()}
    folders = {path.name for path in (small_corpus / "videos").iterdir()}
    assert not train & held_out
    assert train | held_out == folders
