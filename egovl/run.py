"""The composition root: a recipe's parts are built here, joined, and handed to the engine."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from egovl import config as configuration
from egovl import dist
from egovl.convert.distilbert import load_text_tower
from egovl.convert.egoinstructor_files import load_base
from egovl.convert.initialize import Adaptation, load_released, load_weights
from egovl.convert.load import LoadReport
from egovl.convert.narrator import load_decoder, load_own_decoder
from egovl.convert.unpickle import CheckpointError as ConvertError
from egovl.convert.unpickle import load_checkpoint
from egovl.data.loader import EvalLoader, LoaderError, build_eval_loader
from egovl.engine.checkpoint import COMMIT, committed, load_into, read_commit, read_weights
from egovl.engine.checkpoint import CheckpointError as SaveError
from egovl.engine.evaluator import Evaluation, StopAgreed, evaluate
from egovl.engine.fitness import Asked, check_rank
from egovl.engine.folder import (
    ATTEMPT_VARIABLE,
    RunFolder,
    Superseded,
    next_attempt,
    write_json,
    write_text,
)
from egovl.engine.signals import StopRequest
from egovl.engine.task import TrainTask
from egovl.engine.trainer import FitResult, Trainer, TrainingDiverged, TrainPlan
from egovl.models.dual_encoder import DualEncoder
from egovl.models.hf_decoder import GPT2
from egovl.models.narrator import Narrator
from egovl.recipe import Recipe, StageConfig, input_hashes, missing_inputs
from egovl.streams import TrainStreams
from egovl.tasks.binding import bind
from egovl.tasks.clip_cache import ClipEncoding

logger = logging.getLogger(__name__)

EXIT_SUPERSEDED = 3
# what a user can mend: their message says how, a traceback would hide it
HOPELESS = (ValueError, FileNotFoundError, ConvertError)  # a second try would end the same way
USER_ERRORS = (ValueError, OSError, LoaderError, SaveError, ConvertError, TrainingDiverged)


def run(recipe: Recipe, run_dir: Path, stop: StopRequest, command: str) -> int:
    """Train or evaluate in a run folder; returns the exit status of this rank.

    Every rank leaves ``exit/<rank>.json``: done, stopped (and saved) or failed. A rank exits 0 in
    the first two cases. A superseded rank writes nothing and exits 3. Where the node of any rank is
    not fit all of them stop before they begin; the node's agent knows what follows.
    """
    facts = dist.RankFacts.from_env()
    device = dist.init_process_group(facts)
    folder = RunFolder(run_dir, _attempt(run_dir))
    started = time.monotonic()
    try:
        if unfit := _find_unfit(recipe, device):
            logger.error("not begun: %s", unfit)
            _write_exit(folder, "stopped", None, unfit)
            dist.barrier()
            return 0
        _write_config(recipe, folder)
        if command == "train":
            result = _train(recipe, folder, stop, device)
        elif command == "eval":
            result = _evaluate(recipe, folder, device)
        else:
            result = _write_texts(recipe, folder, stop, device)
        if result.outcome == "done":
            _write_result(recipe, folder, result, time.monotonic() - started)
        _write_exit(folder, result.outcome, result.step)
        dist.barrier()
    except Superseded as error:
        logger.warning("%s", error)
        return EXIT_SUPERSEDED
    except USER_ERRORS as error:
        _fail(folder, error, retry=not isinstance(error, HOPELESS))
        logger.error("%s", error)
        logger.debug("raised at", exc_info=True)
        return 1
    except BaseException as error:
        _fail(folder, error)
        raise
    finally:
        dist.shutdown()
    return 0


def _find_unfit(recipe: Recipe, device: torch.device) -> str:
    asked = Asked.from_env()
    return check_rank(asked, device, missing_inputs(recipe)) if asked is not None else ""


def _train(recipe: Recipe, folder: RunFolder, stop: StopRequest, device: torch.device) -> FitResult:
    if recipe.train is None:
        raise ValueError("the recipe has no train: section; use `python -m egovl eval`")
    stage, tokenizer = recipe.train, recipe.tokenizer.build()
    torch.manual_seed(recipe.seed)  # the same first weights on every rank
    _set_precision(recipe)
    model: nn.Module = recipe.model.build()
    streams = TrainStreams(recipe, stage, tokenizer)
    untrained = None
    if recipe.trainer.legacy_ema_init:
        untrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialize(model, recipe)
    flops = _describe_model(recipe, folder)
    if dist.rank() == 0:
        logger.info("%s", streams)
    total_steps = streams.total_steps()
    task = bind(stage.task.build(), streams.dataset, tokenizer)
    try:
        _cache_clips(streams, model.to(device), task, folder, stop)
    except StopAgreed:
        return FitResult("stopped", 0)
    plan = TrainPlan(
        task=task,
        model=model,
        batches=streams.batches,
        global_batch=stage.loader.batch_size,
        total_steps=total_steps,
        evaluations=_evaluations(recipe, tokenizer),
        seed=recipe.seed,
        forward_flops=flops,
        average_start=untrained,
    )
    optim = recipe.optim.in_steps(streams.steps_per_epoch())
    config = recipe.trainer
    if streams.leaves_unused:
        config = dataclasses.replace(config, find_unused_parameters=True)
    return Trainer(plan, optim, config, folder, stop, device).fit()


def _cache_clips(
    streams: TrainStreams, model: nn.Module, task: TrainTask, folder: RunFolder, stop: StopRequest
) -> None:
    """Have clips encoded that a frozen tower need see only once; a stop keeps what is done."""
    device = next(model.parameters()).device

    def encode(encoding: ClipEncoding, share: EvalLoader) -> None:
        asked, flag = Evaluation("cache_clips", encoding, share), dist.AsyncFlag()
        try:
            evaluate(asked, model, device, should_stop=lambda: flag.exchange(stop.requested()))
        finally:
            flag.close()
        folder.require_current()

    streams.cache_clips(model, task, folder.path, encode)


def _describe_model(recipe: Recipe, folder: RunFolder) -> float | None:
    """FLOPs of one sample's forward, counted once a run and kept in its folder; rank 0 only."""
    if dist.rank() != 0:
        return None
    if folder.model.exists():
        return json.loads(folder.model.read_text())["forward_flops"]
    from egovl.engine.flops import count_forward_flops  # fvcore, of no use to a resumed run

    with torch.device("meta"):
        model: nn.Module = recipe.model.build()
    count = sum(p.numel() for p in model.parameters())
    flops = count_forward_flops(model)
    write_json(folder.model, {"parameters": count, "forward_flops": flops})
    shown = "" if flops is None else f", {flops / 1e9:.4g} GFLOPs for one sample's forward"
    logger.info("%s: %.2f M parameters%s", folder.path, count / 1e6, shown)
    return flops


def _evaluate(recipe: Recipe, folder: RunFolder, device: torch.device) -> FitResult:
    if not recipe.evaluate:
        raise ValueError("the recipe has no evaluate: section")
    model: nn.Module = recipe.model.build().to(device)
    step = initialize(model, recipe)
    if recipe.init is None and dist.rank() == 0:
        logger.warning("no init: in the recipe: evaluating random weights")
    metrics: dict[str, float] = {}
    for evaluation in _evaluations(recipe, recipe.tokenizer.build()):
        found = evaluate(evaluation, model, device)
        metrics |= {f"{evaluation.name}/{key}": value for key, value in found.items()}
        if dist.rank() == 0:
            shown = ", ".join(f"{k} {v:.2f}" for k, v in found.items())
            logger.info("%s: %s", evaluation.name, shown)
    return FitResult("done", step, math.nan, metrics)


def _write_texts(
    recipe: Recipe, folder: RunFolder, stop: StopRequest, device: torch.device
) -> FitResult:
    """Do this task's shard of the recipe's `write:` section."""
    from egovl.narration.run_job import run_job

    if recipe.write is None:
        raise ValueError("the recipe has no write: section")
    torch.manual_seed(recipe.seed)  # random weights, if any, are those of every other shard
    model: nn.Module = recipe.model.build()
    step = initialize(model, recipe)
    if recipe.init is None:
        logger.warning("no init: in the recipe: writing with random weights")
    checkpoint = input_hashes(recipe, newest_checkpoint).get("init.file", "random")
    done, metrics = run_job(recipe, model.to(device).eval(), device, folder, stop, checkpoint)
    return FitResult("done" if done else "stopped", step, math.nan, metrics)


def initialize(model: nn.Module, recipe: Recipe) -> int:
    """Load the recipe's ``init``; returns the step of a run of ours, else 0."""
    init = recipe.init
    if init is None:
        return 0
    adaptation = Adaptation(init.inflate, init.resize_positions, init.weights, init.heads)
    if init.base is not None:
        logger.info("%s (base): %s", init.base, load_base(model, init.base))
    if init.text is not None:
        logger.info("%s (text side): %s", init.text, _load_text(model, init.text))
    if init.file is None:
        return 0
    if init.origin not in ("egovl", "auto") or not init.file.is_dir():
        load_released(model, init.origin, init.file, adaptation)
        return _exported_step(init.file)
    checkpoint = newest_checkpoint(init.file)
    weights = read_weights(checkpoint, averaged=init.weights == "ema")
    try:
        report = load_weights(model, "egovl", weights, adaptation)
    except ConvertError as error:
        words = f"the recipe's model: has to be that of {init.file / 'config.yaml'}"
        raise ConvertError(f"{checkpoint}: {error}; {words}") from error
    logger.info("%s: %s", checkpoint, report)
    return read_commit(checkpoint).step


@runtime_checkable
class LoadsItself(Protocol):
    """Somebody else's network, wrapped: it reads its own folder."""

    def load_folder(self, folder: Path) -> int:
        """Take weights and sizes from a Hugging Face folder; the number of tensors."""
        ...


def _load_text(model: nn.Module, source: Path) -> LoadReport:
    """Fill the text side: of a run or export of ours, or a Hugging Face folder."""
    if isinstance(model, DualEncoder):
        return load_text_tower(model, source)
    if isinstance(model, LoadsItself):
        return LoadReport(model.load_folder(source), (), (), ())
    decoder = model.decoder if isinstance(model, Narrator) else model
    if not isinstance(decoder, GPT2):
        raise ValueError(f"init.text={source}: a {type(model).__name__} has no text side")
    if (source / "ckpt").is_dir() or (source / COMMIT).exists():
        return load_own_decoder(decoder, read_weights(newest_checkpoint(source)))
    if source.is_file():
        return load_own_decoder(decoder, load_checkpoint(source).state)
    return load_decoder(decoder, source)


def _exported_step(file: Path) -> int:
    """Step of our own export; 0 of what others wrote."""
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        return 0
    with safe_open(file, framework="pt") as stored:
        return int((stored.metadata() or {}).get("step", 0))


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint of a run folder, or the folder itself if it is a checkpoint.

    Raises:
        FileNotFoundError: there is none.
    """
    if (folder / COMMIT).exists():
        return folder
    whole, damaged = committed(folder / "ckpt")
    if not whole:
        note = f": {'; '.join(damaged)}" if damaged else ""
        raise FileNotFoundError(f"{folder / 'ckpt'} holds no whole checkpoint{note}")
    return folder / "ckpt" / f"step-{whole[0]}"


def _evaluations(recipe: Recipe, tokenizer: Any) -> list[Evaluation]:
    def build(name: str, stage: StageConfig) -> Evaluation:
        dataset = stage.dataset.build()
        loader = build_eval_loader(
            dataset,
            stage.loader,
            tokenizer,
            rank=dist.rank(),
            world_size=dist.world_size(),
            every=stage.every,
        )
        return Evaluation(name, bind(stage.task.build(), dataset, tokenizer), loader)

    return [build(name, stage) for name, stage in recipe.evaluate.items()]


def _set_precision(recipe: Recipe) -> None:
    torch.backends.cuda.matmul.allow_tf32 = recipe.trainer.tf32
    torch.backends.cudnn.allow_tf32 = recipe.trainer.tf32
    torch.use_deterministic_algorithms(recipe.trainer.deterministic)


def _attempt(run_dir: Path) -> int:
    named = os.environ.get(ATTEMPT_VARIABLE)
    if named is not None:
        return int(named)
    number = dist.broadcast_object(next_attempt(run_dir) if dist.rank() == 0 else None)
    if dist.rank() == 0:
        claim = RunFolder(run_dir, number).attempt_dir(number) / "claim.json"
        write_json(claim, {"token": f"by hand, process {os.getpid()}", "restart": 0})
    return number


def _write_config(recipe: Recipe, folder: RunFolder) -> None:
    if dist.rank() == 0:
        folder.require_current()
        write_text(folder.config, configuration.dump(recipe))


def _write_result(recipe: Recipe, folder: RunFolder, result: FitResult, seconds: float) -> None:
    if dist.rank() != 0:
        return
    folder.require_current()
    record = {
        "schema": 1,
        "step": result.step,
        "attempt": folder.attempt,
        "seconds": round(seconds, 1),
        "metrics": result.metrics,
        "train_loss": None if math.isnan(result.train_loss) else result.train_loss,
        "inputs": input_hashes(recipe, newest_checkpoint),
    }
    write_json(folder.result, record)


def _write_exit(
    folder: RunFolder, state: str, step: int | None, message: str = "", *, retry: bool = True
) -> None:
    whole, _ = committed(folder.checkpoints)
    record = {
        "state": state,
        "rank": dist.rank(),
        "world_size": dist.world_size(),
        "step": step,
        "saved_step": whole[0] if whole else None,
        "message": message,
        "retry": retry,
    }
    folder.write_exit(dist.rank(), record)


def _fail(folder: RunFolder, error: BaseException, *, retry: bool = True) -> None:
    """Leave an exit file; where the user has to act first, ask the agent for no second try."""
    try:
        _write_exit(folder, "failed", None, f"{type(error).__name__}: {error}", retry=retry)
    except (OSError, Superseded) as second:
        logger.error("could not leave an exit file: %s", second)


def load_run(run_dir: Path, config_type: Callable[[Path], Recipe]) -> tuple[Recipe, nn.Module, int]:
    """A finished run's recipe, its model with the newest weights, and their step.

    Raises:
        FileNotFoundError: no config or no checkpoint there.
    """
    file = run_dir / "config.yaml"
    if not file.exists():
        raise FileNotFoundError(f"{run_dir} is no run folder: it has no config.yaml")
    checkpoint = newest_checkpoint(run_dir)
    recipe = dataclasses.replace(config_type(file), init=None)
    model: nn.Module = recipe.model.build()
    load_into(checkpoint, model, None)
    return recipe, model, read_commit(checkpoint).step
