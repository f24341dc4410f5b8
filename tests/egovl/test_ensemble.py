"""`python -m egovl ensemble`: files of predictions in, one submission out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from egovl.__main__ import main
from egovl.metrics.span_ensemble import ensemble_spans
from egovl.tasks.grounding_submission import QueryPrediction, read_submission, write_submission
from tests.egovl.data.query_files import question

QUERIES = 7
DURATION_SEC = 40.0


def predictions_of(seed: int, count: int = QUERIES) -> list[QueryPrediction]:
    """Five spans of each of a few queries of three clips, best first."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 30, (count, 5))
    end = start + rng.uniform(1, 9, (count, 5))
    scores = -np.sort(-rng.uniform(0, 1, (count, 5)))
    times = np.stack([start, end, scores], axis=2)
    return [QueryPrediction(f"clip{n % 3}", f"ann{n}", 0, times[n].tolist()) for n in range(count)]


def file_of(path: Path, predictions: Sequence[QueryPrediction]) -> str:
    write_submission(path, predictions)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two models; the second one's file is in another order."""
    return [
        file_of(tmp_path / "a.json", predictions_of(0)),
        file_of(tmp_path / "b.json", predictions_of(1)[::-1]),
    ]


@pytest.fixture
def asked(tmp_path: Path) -> str:
    path = tmp_path / "asked.jsonl"
    rows = [question(n, 1, 2) for n in range(QUERIES)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_the_command_writes_what_the_function_finds_for_each_query(
    tmp_path: Path, files: list[str], asked: str
) -> None:
    out = tmp_path / "new/final.json"
    words = ["-m", "egovl", "ensemble", *files, "--out", str(out), "--annotations", asked]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"2/2 {files[1]}: {QUERIES} queries" in done.stdout
    assert f"{out}: {QUERIES} queries" in done.stdout
    content = json.loads(out.read_text())
    assert (content["version"], content["challenge"]) == ("1.0", "ego4d_nlq_challenge")
    for first, second, entry in zip(
        predictions_of(0), predictions_of(1), content["results"], strict=True
    ):
        assert (entry["clip_uid"], entry["annotation_uid"]) == first.key[:2]
        assert entry["predicted_times"] == ensemble_spans([first.times, second.times])
        assert len(entry["predicted_times"]) == 5


def test_a_check_writes_nothing_and_needs_no_place(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path(files[0]).parent.iterdir())
    assert main(["ensemble", *files, "--check"]) == 0
    assert f"{QUERIES} queries of 2 models fit together" in capsys.readouterr().out
    assert sorted(Path(files[0]).parent.iterdir()) == before


def changed(number: int, **values: object) -> list[QueryPrediction]:
    """The second model's predictions, one of them otherwise."""
    made = predictions_of(1)
    made[number] = QueryPrediction(**(vars_of(made[number]) | values))  # type: ignore[arg-type]
    return made


def vars_of(prediction: QueryPrediction) -> dict[str, object]:
    names = ("clip_uid", "annotation_uid", "query_idx", "times")
    return {name: getattr(prediction, name) for name in names}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (predictions_of(1)[:-1], "b.json lacks 1 queries that .*a.json answers, first ann6_0"),
        (predictions_of(1, 9), "a.json lacks 2 queries that .*b.json answers, first ann7_0"),
        (changed(2, clip_uid="other"), "lacks 1 queries .* first ann2_0 of clip clip2"),
        (changed(2, times=[[1.0, 2.0]]), "b.json: query ann2_0 .*submission_scores=true"),
        (changed(2, times=[]), "b.json: query ann2_0 has no span; evaluate"),
        (changed(2, times=[[1.0, 2.0, float("nan")]]), r"ann2_0: \[1.0, 2.0, nan\]"),
        ([*predictions_of(1), predictions_of(1)[0]], "b.json: query ann0_0 .* is there twice"),
        ([], "b.json has no predictions"),
    ],
)
def test_files_that_do_not_fit_are_named_and_the_old_submission_stays(
    tmp_path: Path,
    files: list[str],
    second: list[QueryPrediction],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "final.json"
    out.write_text("old")
    file_of(tmp_path / "b.json", second)
    assert main(["ensemble", *files, "--out", str(out)]) == 2
    assert_told(capsys, message)
    assert out.read_text() == "old"


def assert_told(capsys: pytest.CaptureFixture[str], message: str) -> None:
    told = capsys.readouterr().err
    assert re.search(message, told), told


@pytest.mark.parametrize("content", ["", "{}", '{"results": [{"clip_uid": 1}]}', "[1]"])
def test_a_file_of_something_else_is_named(
    tmp_path: Path, files: list[str], content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[1]).write_text(content)
    assert main(["ensemble", *files, "--out", str(tmp_path / "final.json")]) == 2
    assert_told(capsys, "b.json is no file of predictions")
    assert not (tmp_path / "final.json").exists()


def test_what_was_never_asked_or_not_answered_is_refused(
    tmp_path: Path, files: list[str], asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(Path(asked).read_text() + "\n" + json.dumps(question(8, 1, 2)))
    late = changed(3, times=[[35.0, 41.0, 0.5]])
    for questions, second, message in (
        (more, predictions_of(1), "a.json: 1 queries have no prediction, first ann8_0"),
        (asked, late, r"b.json: query ann3_0: \[35.0, 41.0, 0.5\] .* clip of 40.0 s"),
        (tmp_path / "none.jsonl", predictions_of(1), "none.jsonl does not exist"),
    ):
        file_of(tmp_path / "b.json", second)
        words = ["ensemble", *files, "--check", "--annotations", str(questions)]
        assert main(words) == 2
        assert_told(capsys, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.json", "b.json"], "--out FILE is missing"),
        (["a.json", "--check"], "a.json is the only file"),
        (["a.json", "b.json", "./a.json", "--check"], "a.json is named twice"),
        (["a.json", "b.json", "--out", "b.json"], "b.json is one of the files to join"),
        (["a.json", "none.json", "--check"], "no predictions at none.json"),
    ],
)
def test_wrong_words_say_what_would_be_right(
    tmp_path: Path,
    files: list[str],
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ensemble", *words]) == 2
    assert_told(capsys, message)
    assert read_submission(Path(files[1]))[0] == predictions_of(1)[-1]
