"""However those are killed who may continue a run, it goes on exactly once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.execution import enter_attempt
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder
from jobs.signals import SignalPipe
from tests.jobs import claim_race
from tests.jobs.claim_race import run_trial

pytestmark = pytest.mark.slow

TRIALS = 100


def wrong_trials(folder: Path, seeds: range, is_blind: bool = False) -> list[str]:
    wrong: list[str] = []
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        if words := run_trial(place, seed, is_blind):
            wrong.append(words)
        shutil.rmtree(place)
    return wrong


def test_hundred_races_with_kills_never_continue_a_run_twice_nor_lose_it(tmp_path: Path) -> None:
    wrong = wrong_trials(tmp_path, range(TRIALS))
    assert not wrong, "\n".join(wrong)


def test_searches_that_find_nothing_cost_no_more_than_a_job_that_leaves_at_once(
    tmp_path: Path,
) -> None:
    assert wrong_trials(tmp_path, range(1000, 1020), is_blind=True) == []


def test_of_two_jobs_with_one_claim_the_first_that_starts_gets_in(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    entered: list[int | None] = []
    with SignalPipe() as signals:
        for job_id, index in (("1", 0), ("1", 1), ("2", 0), ("2", 1), ("1", 0)):
            node = NodeFacts(index, 2, executor="slurm", job_id=job_id)
            entered.append(enter_attempt(run, node, "t", signals, []))
    assert entered == [1, 1, None, None, 1]


def test_the_race_notices_jobs_that_look_at_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_race, "enter_attempt", lambda *_: 1)
    assert any("run at once" in words for words in wrong_trials(tmp_path, range(20)))
