"""Retriever and captioner through the launcher on the real Slurm, preempted once each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from tests.slurm.client import SlurmClient
from tests.slurm.journey import Journey, differences, make_checkout

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.soak]

STEPS = 200  # of some hundredths of a second: a preemption takes two to arrive
SMALL = ("evaluate={}", f"trainer.steps={STEPS}", "trainer.save_every=20", "trainer.log_every=1")


@pytest.fixture(scope="module")
def views_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that ego clips have supports."""
    out = tmp_path_factory.mktemp("views") / "synthetic"
    render_corpus(SyntheticConfig(train_videos=48, eval_videos=5), out, workers=2)
    return out


@pytest.mark.parametrize("recipe", ["view_retrieval", "captioning"])
@pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True)
def test_a_run_preempted_once_equals_the_unbroken_one_bit_for_bit(
    recipe: str, slurm: SlurmClient, views_corpus: Path, tmp_path: Path
) -> None:
    project = make_checkout(tmp_path / "project", views_corpus, gpus=1, steps=STEPS)
    words = ["--config", f"configs/debug/{recipe}.yaml", "--nodes", "2", "--partition", "a100"]
    words += ["train.loader.batch_size=8", *SMALL]
    whole = Journey.launch(slurm, project, *words, "--name", "whole")
    whole.wait_done(900)
    run = Journey.launch(slurm, project, *words, "--name", "broken")
    run.wait_step(random.randint(5, 80))
    run.preempt()
    run.wait_done(900)
    assert run.folder.attempt_numbers() == [1, 2]
    assert run.repeated_steps() == 0
    assert differences(run, whole) == []
