"""Caption metrics: several references, permutations, what happens without Java."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egovl.metrics import meteor as program
from egovl.metrics.captions import bleu, caption_scores, cider, common_subsequences, rouge_l

REFERENCES = [["c opens the door", "c pulls a door open"], ["c cuts an onion"], ["c washes a cup"]]
CANDIDATES = ["c opens a door", "c cuts the onion", "c drops"]


def scores(order: list[int]) -> dict[str, float]:
    return caption_scores(
        [REFERENCES[i] for i in order], [CANDIDATES[i] for i in order], with_meteor=False
    )


def test_the_order_of_the_clips_changes_nothing() -> None:
    first, second = scores([0, 1, 2]), scores([2, 0, 1])
    assert first.keys() == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-12)


def test_a_second_reference_can_only_help_precision() -> None:
    alone = bleu([[truths[0]] for truths in REFERENCES], CANDIDATES)
    both = bleu(REFERENCES, CANDIDATES)
    assert all(b.each[0] >= a.each[0] for a, b in zip(alone, both, strict=True))
    assert both[1].each[0] > alone[1].each[0]  # "a door" stands in the second one


def test_the_words_of_the_truth_score_highest() -> None:
    for metric in (rouge_l, cider):
        exact = metric(REFERENCES[1:], ["c cuts an onion", "c washes a cup"])
        other = metric(REFERENCES[1:], ["c cuts an egg", "c washes a pan"])
        assert exact.corpus > other.corpus > 0
    assert rouge_l([["a b c"]], ["a b c"]).corpus == 1.0


def test_common_subsequences_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        ([*map(str, rng.integers(0, 4, rng.integers(1, 9)))], [*map(str, rng.integers(0, 4, n))])
        for n in rng.integers(1, 9, 40)
    ]
    assert common_subsequences(pairs) == [_common(a, b) for a, b in pairs]


def _common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return _common(a[:-1], b[:-1]) + 1
    return max(_common(a[:-1], b), _common(a, b[:-1]))


@pytest.mark.parametrize(
    ("references", "candidates", "message"),
    [
        ([], [], "at least one"),
        ([["a"]], ["a", "b"], "2 candidates"),
        ([["a"], []], ["a", "b"], "1"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    references: list[list[str]], candidates: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        caption_scores(references, candidates)


def test_without_java_meteor_is_left_out_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program.shutil, "which", lambda _name: None)
    found = caption_scores(REFERENCES, CANDIDATES)
    assert "METEOR" not in found and "CIDEr" in found
    assert "install a Java runtime" in caplog.text


def test_a_jar_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(program.MeteorMissing, match=r"meteor-1\.5\.jar"):
        program.meteor([["a"]], ["a"], tmp_path / "meteor-1.5.jar")
