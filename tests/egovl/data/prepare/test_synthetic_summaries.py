"""Summaries of the rendered corpus are true, need order and set; questions from Ego4D's json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from egovl.__main__ import main
from egovl.data.datasets.egoclip_table import ClipRow, read_rows
from egovl.data.datasets.summary_hierarchy import read_summaries
from egovl.data.prepare.synthetic_plan import VERBS

PHRASES = [verb.phrase.replace("the {}", "it") for verb in VERBS]


def told(text: str) -> list[int]:
    """Verbs of a summary, in order."""
    return [PHRASES.index(part) for part in text.removeprefix("#Summary C ").split(", ")]


def within(narrations: list[ClipRow], summary: ClipRow) -> list[ClipRow]:
    found = [
        n
        for n in narrations
        if n.uid == summary.uid
        and n.start_sec >= summary.start_sec
        and n.end_sec <= summary.end_sec
    ]
    return sorted(found, key=lambda n: n.start_sec)


def test_a_summary_tells_the_narrated_verbs_in_their_order(small_corpus: Path) -> None:
    narrations = list(read_rows(small_corpus / "egoclip.csv", "raise"))
    summaries = list(read_summaries(small_corpus / "summaries" / "egosummary_full.csv", "raise"))
    assert len(summaries) == 4 * 17
    for summary in summaries:
        below = within(narrations, summary)
        assert [verb for n in below for verb in n.verbs] == told(summary.text)


def test_both_hierarchies_hold_the_narrations_below_each_summary(small_corpus: Path) -> None:
    narrations = list(read_rows(small_corpus / "egoclip.csv", "raise"))
    summaries = list(read_summaries(small_corpus / "summaries" / "egosummary_full.csv", "raise"))
    ours = json.loads((small_corpus / "summaries" / "summary_hierarchy.json").read_text())
    released = json.loads(
        (small_corpus / "summaries" / "summary_clips_hierarchy_full.json").read_text()
    )
    assert set(released) == {s.text for s in summaries}
    keys = ["summary_start", "summary_end", "clip_start", "clip_end"]
    keys += ["clip_text", "tag_verb", "tag_noun"]
    for summary, entry in zip(summaries, ours, strict=True):
        assert entry["clip_text"] == [n.text for n in within(narrations, summary)]
        assert list(released[summary.text]) == keys
        assert entry["tag_verb"][0].startswith("[")


def test_a_question_has_one_answer_and_a_rival_with_nearly_the_same_actions(
    small_corpus: Path,
) -> None:
    questions = json.loads((small_corpus / "summaries" / "summarymcq_full.json").read_text())
    assert list(questions) == [str(i) for i in range(len(questions))] and len(questions) == 6 * 9
    places = Counter(q["answer"] for q in questions.values())
    assert max(places.values()) - min(places.values()) <= 1
    rivals = []
    for question in questions.values():
        choices = [question["choices"][str(k)] for k in range(5)]
        right = choices[question["answer"]]
        assert question["types"] == 3 and question["query"] == right
        others = [c for c in choices if c is not right]
        assert all(c["video_uid"] != right["video_uid"] for c in others)
        assert len({c["clip_text"] for c in choices}) == 5
        own = Counter(told(right["clip_text"]))
        rivals.append(min((own - Counter(told(c["clip_text"]))).total() for c in others))
    assert sum(rivals) / len(rivals) < 2  # of four actions


def test_long_video_classes_and_coming_actions_follow_the_videos(small_corpus: Path) -> None:
    rows = (
        (small_corpus / "summaries" / "howto100m_classification_val_sorted.csv")
        .read_text()
        .splitlines()
    )
    assert rows[0] == "video_uid\tclip_start\tclip_end\tfps\tlabel" and len(rows) == 7
    assert all((small_corpus / "videos" / row.split("\t")[0]).is_file() for row in rows[1:])
    assert all(0 <= int(row.split("\t")[4]) < 6 for row in rows[1:])
    actions = json.loads((small_corpus / "summaries" / "fho_lta_train.json").read_text())["clips"]
    narrations = list(read_rows(small_corpus / "egoclip.csv", "raise"))
    assert [[a["verb_label"]] for a in actions] == [list(n.verbs) for n in narrations]
    assert [a["action_idx"] for a in actions] == list(range(20)) * 4


def ego4d(folder: Path, videos: int) -> Path:
    def summary(start: float, uid: str) -> dict[str, Any]:
        return {"start_time": start, "end_time": start + 9, "text": f"#Summary {uid} {start}"}

    file = folder / "all_narrations.json"
    stored = {
        f"v{i}": {"summaries": [summary(0.0, f"v{i}"), summary(9.0, "x")]} for i in range(videos)
    }
    stored["bare"] = {}
    file.write_text(json.dumps({"videos": stored}))
    return file


def test_questions_are_made_from_ego4ds_narrations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "mcq.json", ["prepare", "summary-mcq", "--out"]
    source = str(ego4d(tmp_path, 4))
    assert main([*words, str(out), "--narrations", source]) == 0
    assert "8 questions" in capsys.readouterr().out
    questions = json.loads(out.read_text())
    for question in questions.values():
        own = question["choices"][str(question["answer"])]
        assert question["query"] == own and question["types"] == 3
        others = [c for k, c in question["choices"].items() if int(k) != question["answer"]]
        assert len(others) == 4
        assert own["video_uid"] not in {c["video_uid"] for c in others}
    again = tmp_path / "again.json"
    assert main([*words, str(again), "--narrations", source]) == 0
    assert again.read_text() == out.read_text()
    assert main([*words, str(again), "--narrations", str(ego4d(tmp_path, 2))]) == 2
    assert "too few other videos" in capsys.readouterr().err


def test_the_hierarchy_command_writes_what_lies_below(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hierarchy.json"
    words = ["prepare", "hierarchy", "--narrations", str(small_corpus / "egoclip.csv")]
    summaries = str(small_corpus / "summaries" / "egosummary_full.csv")
    assert main([*words, "--summaries", summaries, "--out", str(out)]) == 0
    assert out.read_bytes() == (small_corpus / "summaries" / "summary_hierarchy.json").read_bytes()
    assert main([*words, "--summaries", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "none" in capsys.readouterr().err
