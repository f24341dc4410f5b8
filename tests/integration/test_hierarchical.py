"""HierVL's joint training stopped in a child's and in a parent's turn, on real files, two ranks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from egovl import dist
from egovl.engine.checkpoint import read_weights
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.trainer import Trainer, TrainPlan
from egovl.recipe import load_recipe
from egovl.streams import TrainStreams
from egovl.tasks.binding import bind
from tests.ranks import run_ranks

STEPS = 6
STOPS = (2, 4)  # the next turn is a parent's, a child's
SMALL = (
    "model.encoder.video.width=16",
    "model.encoder.video.depth=1",
    "model.encoder.text.width=16",
    "model.encoder.text.depth=1",
    "model.aggregator.drop_path=0.3",  # random draws that a resume has to repeat
    "train.loader.batch_size=8",
    "train.loader.num_workers=0",
    "train.parents.loader.batch_size=4",
    "train.parents.loader.num_workers=0",
    "train.parents.children_per_parent=2",
    "optim.schedule=constant",
    "optim.warmup_steps=0",
    "trainer.log_every=3",
    "trainer.eval_every=null",
    "trainer.save_every=null",
)


def train(file: str, run_dir: Path, steps: int, words: tuple[str, ...]) -> None:
    """As ``egovl.run`` does, to a step."""
    recipe = load_recipe(Path(file), [*SMALL, *words])
    stage, tokenizer = recipe.train, recipe.tokenizer.build()
    assert stage is not None
    torch.manual_seed(recipe.seed)
    model = recipe.model.build()
    streams = TrainStreams(recipe, stage, tokenizer)
    task = bind(stage.task.build(), streams.dataset, tokenizer)
    streams.cache_clips(model, task, run_dir)
    plan = TrainPlan(task, model, streams.batches, stage.loader.batch_size, steps, [], 0)
    assert streams.leaves_unused
    config = dataclasses.replace(recipe.trainer, find_unused_parameters=True)
    folder = RunFolder(run_dir, 1)
    result = Trainer(plan, recipe.optim, config, folder, StopRequest(), torch.device("cpu")).fit()
    assert result.step == steps


def whole_and_broken(file: str, folder: str, words: tuple[str, ...]) -> None:
    for name, ends in (("whole", (STEPS,)), ("broken", (*STOPS, STEPS))):
        run_dir = Path(folder) / name
        if dist.rank() == 0:
            (run_dir / "attempts/1").mkdir(parents=True)
        dist.barrier()
        for steps in ends:
            train(file, run_dir, steps, words)


def curve(run_dir: Path) -> dict[int, dict[str, Any]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    timed = ("clips_per_sec", "sec_left", "time", "steps", "tflops")
    return {r["step"]: {k: v for k, v in r.items() if k not in timed} for r in lines}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("model.frozen=none", "train.parents.cache_clips=false"), ()],
    ids=["pixels", "stored clips"],
)
def test_a_run_stopped_in_both_turns_equals_the_unbroken_one_bit_for_bit(
    project: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = project / "configs/debug/hierarchical.yaml"
    run_ranks(2, whole_and_broken, str(file), str(tmp_path), words)
    whole, broken = curve(tmp_path / "whole"), curve(tmp_path / "broken")
    assert list(whole) == list(range(1, STEPS + 1))
    assert whole == broken
    parents = [step for step, record in whole.items() if "parent_loss" in record]
    assert parents == [3, 6]
    assert all(("accuracy" in record) != ("parent_loss" in record) for record in whole.values())
    weights = [read_weights(tmp_path / name / f"ckpt/step-{STEPS}") for name in ("whole", "broken")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
