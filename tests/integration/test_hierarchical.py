"""HierVL's joint training stopped in a child's and in a parent's turn, on real files, two ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egovl import dist
from egovl.engine.checkpoint import read_weights
from egovl.engine.evaluator import StopAgreed
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.trainer import Trainer, TrainPlan
from egovl.recipe import load_recipe
from egovl.run import _cache_clips
from egovl.streams import TrainStreams
from egovl.tasks.binding import bind
from egovl.tasks.clip_cache import ClipEncoding
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
    _cache_clips(streams, model, task, RunFolder(run_dir, 1), StopRequest())
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


class StopAfter(StopRequest):
    """A stop that is asked for after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def requested(self) -> bool:
        self._left -= 1
        return self._left < 0


def store_clips(file: str, folder: str) -> list[int]:
    """Batches of this rank in three attempts: unbroken, stopped after some, resumed."""
    recipe = load_recipe(Path(file), [*SMALL, "train.parents.loader.eval_batch_size=8"])
    assert recipe.train is not None
    torch.manual_seed(recipe.seed)
    model, tokenizer = recipe.model.build(), recipe.tokenizer.build()
    seen, eval_step = [0, 0, 0], ClipEncoding.eval_step

    def counted(self: ClipEncoding, model: torch.nn.Module, batch: Any) -> dict[str, Any]:
        seen[attempt] += 1
        return eval_step(self, model, batch)

    ClipEncoding.eval_step = counted  # of this process, which ends
    for attempt, (name, batches) in enumerate((("whole", 100), ("broken", 2), ("broken", 100))):
        streams = TrainStreams(recipe, recipe.train, tokenizer)
        run_folder = RunFolder(Path(folder) / name, 1)
        run_folder.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(StopAgreed):
            _cache_clips(streams, model, recipe.train.task.build(), run_folder, StopAfter(batches))
        assert (run_folder.path / "parent_clips.npy").exists() == (attempt != 1)
        dist.barrier()
    return seen


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


@pytest.mark.slow
def test_a_stop_while_clips_are_stored_loses_none_of_them(project: Path, tmp_path: Path) -> None:
    file = str(project / "configs/debug/hierarchical.yaml")
    counts = run_ranks(2, store_clips, file, str(tmp_path / "runs"))
    # 85 stretches in batches of 8 on two ranks; a stop is seen one batch after it was asked for
    assert counts == [[6, 3, 3]] * 2
    whole, broken = (
        np.load(tmp_path / "runs" / x / "parent_clips.npy") for x in ("whole", "broken")
    )
    assert np.array_equal(whole, broken)
    assert [path.name for path in (tmp_path / "runs/broken").iterdir()] == ["parent_clips.npy"]
