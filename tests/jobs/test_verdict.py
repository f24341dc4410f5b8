from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.run_folder import RunFolder, write_json_atomic
from jobs.verdict import Verdict, read_verdict


def verdict_of(folder: Path, *exits: dict[str, Any] | None, commit: int | None = None) -> Verdict:
    run = RunFolder(folder)
    for rank, words in enumerate(exits):
        if words is not None:
            write_json_atomic(run.attempt(1).exit_json(rank), words)
    if commit is not None:
        write_json_atomic(run.checkpoints / f"step-{commit}" / "COMMIT", {"step": commit})
    return read_verdict(run, run.attempt(1), len(exits))


DONE = {"state": "done", "saved_step": 9}
STOPPED = {"state": "stopped", "saved_step": 9}


def test_run_is_done_when_every_rank_says_so(tmp_path: Path) -> None:
    assert verdict_of(tmp_path, DONE, DONE, commit=9).state == "done"


def test_missing_rank_keeps_the_verdict_open_and_is_named(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, DONE, None, DONE)
    assert verdict.state == "open"
    assert "rank 1" in verdict.message


def test_stop_needs_the_commit_that_the_ranks_speak_of(tmp_path: Path) -> None:
    assert verdict_of(tmp_path / "a", STOPPED, STOPPED, commit=9).state == "stopped"
    assert verdict_of(tmp_path / "b", STOPPED, STOPPED, commit=8).state == "lost"
    assert verdict_of(tmp_path / "c", STOPPED, STOPPED).state == "lost"


def test_stop_before_anything_was_saved_is_a_stop(tmp_path: Path) -> None:
    nothing = {"state": "stopped", "saved_step": None}
    assert verdict_of(tmp_path, nothing, nothing).state == "stopped"


def test_failed_rank_with_words_is_the_one_that_is_quoted(tmp_path: Path) -> None:
    silent, loud = {"state": "failed", "message": ""}, {"state": "failed", "message": "no memory"}
    verdict = verdict_of(tmp_path, silent, loud, None)
    assert (verdict.state, verdict.message) == ("failed", "rank 1: no memory")
    assert verdict.may_retry


def test_rank_can_say_that_starting_again_is_useless(tmp_path: Path) -> None:
    failed = {"state": "failed", "message": "no such video root", "retry": False}
    assert not verdict_of(tmp_path, failed, None).may_retry
