"""LaViLa's losses, alone and across ranks, its EgoMCQ accuracy and its learning rate schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egovl import dist
from egovl.engine.configs import OptimConfig
from egovl.engine.optim import lr_at
from egovl.losses.contrastive import ContrastiveOutput, SslClipOutput, info_nce, ssl_clip
from egovl.losses.language import caption_loss
from egovl.losses.ranking import max_margin
from egovl.losses.similarity import cosine_matrix
from egovl.metrics.choice import choice_accuracy
from tests.parity.golden import GoldenCase
from tests.ranks import run_ranks

Options = Mapping[str, Any]
Values = dict[str, Tensor]


def check_losses(case: GoldenCase) -> None:
    """Every loss, what it reports beside, and its gradients."""
    inputs = case.group("inputs")
    for name, options in case.json.get("options", {}).items():
        outputs = case.group(f"outputs/{name}")
        tensors = [inputs[key] for key in options["inputs"]]
        values, grads = _LOSSES[options["loss"]](tensors, options)
        for key, golden in outputs.items():
            tolerance = "X" if key.startswith("num_") else "M" if "_acc" in key else "F"
            case.close(f"{name}/{key}", values[key].reshape(golden.shape), golden, tolerance)
        for key, golden in case.group(f"grads/{name}").items():
            case.close(f"{name}/grad/{key}", grads[key].reshape(golden.shape), golden, "G")


def _clip(tensors: Sequence[Tensor], options: Options) -> tuple[Values, Values]:
    video, text = (x.clone().requires_grad_() for x in tensors)
    scale = torch.tensor(options["logit_scale"], requires_grad=True)
    output = info_nce(video, text, scale)
    output.loss.backward()
    return _contrastive_values(output), _grads(i=video, t=text, s=scale)


def _ssl(tensors: Sequence[Tensor], options: Options) -> tuple[Values, Values]:
    video, text = (x.clone().requires_grad_() for x in tensors[:2])
    scale = torch.tensor(options["logit_scale"], requires_grad=True)
    log_pseudo = torch.tensor(-math.log(options["scale_init"]), requires_grad=True)
    output = ssl_clip(video, text, tensors[2], scale, log_pseudo.exp())
    output.loss.backward()
    values = _contrastive_values(output) | {
        "clip_acc_gt": output.accuracy_human,
        "clip_acc_pseudo": output.accuracy_pseudo,
        "num_gt": output.num_human,
        "num_pseudo": output.num_pseudo,
    }
    return values, _grads(i=video, t=text, s=scale, logit_scale_pseudo=log_pseudo)


def _max_margin(tensors: Sequence[Tensor], options: Options) -> tuple[Values, Values]:
    video, text = (x.clone().requires_grad_() for x in tensors[:2])
    loss = max_margin(
        cosine_matrix(text, video),
        options["margin"],
        weight=tensors[2] if len(tensors) > 2 else None,
        fix_norm=options["fix_norm"],
    )
    loss.backward()
    return {"loss": loss, "max_margin_loss": loss}, _grads(i=video, t=text)


def _caption(tensors: Sequence[Tensor], options: Options) -> tuple[Values, Values]:
    logits = tensors[0].clone().requires_grad_()  # published as [B, V, L]
    output = caption_loss(
        logits.transpose(1, 2), tensors[1], pad_id=options["pad_token_id"], legacy_mean=True
    )
    output.loss.backward()
    values = {"loss": output.loss, "caption_loss": output.loss}
    values |= {"ppl": output.perplexity, "caption_acc": output.accuracy}
    return values, _grads(l=logits)


def _contrastive_values(output: ContrastiveOutput | SslClipOutput) -> Values:
    return {"loss": output.loss, "clip_loss": output.loss, "clip_acc": output.accuracy}


def _grads(**leaves: Tensor) -> Values:
    """Gradients by name; a leaf that the loss did not touch has a zero one."""
    return {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in leaves.items()}


_LOSSES = {
    "CLIPLoss": _clip,
    "SSLCLIPLoss": _ssl,
    "MaxMarginRankingLoss": _max_margin,
    "AdaptiveMaxMarginRankingLoss": _max_margin,
    "CaptionLoss": _caption,
}


def check_losses_distributed(case: GoldenCase) -> None:
    """Losses and gradients of every rank before DDP's mean, and of the whole batch at once."""
    options = case.json.get("options", {})
    whole = {k.removeprefix("full/"): v for k, v in options.items() if k.startswith("full/")}
    inputs = case.group("inputs")
    for name, entry in whole.items():
        _compare(case, f"full/{name}", _rank_values(entry, inputs, 0, len(inputs["image"])))
    split = {k: v for k, v in options.items() if not k.startswith("full/")}
    if split:
        size = case.json["per_rank"]
        ranks = run_ranks(case.json["world_size"], _all_losses, str(case.path), list(split), size)
        for rank, results in enumerate(ranks):
            for name, values in results.items():
                _compare(case, f"rank{rank}/{name}", values)


def _all_losses(path: str, names: Sequence[str], size: int) -> dict[str, Values]:
    """What one rank has: rows ``[rank * size, (rank + 1) * size)``."""
    case = GoldenCase(Path(path))
    inputs, start = case.group("inputs"), dist.rank() * size
    options = case.json["options"]
    return {name: _rank_values(options[name], inputs, start, size) for name in names}


def _rank_values(options: Options, inputs: Values, start: int, size: int) -> Values:
    video, text = (
        inputs[key][start : start + size].clone().requires_grad_() for key in ("image", "text")
    )
    pair = dist.gather_pair(video, text, _gather_mode(options))
    leaves = {"grad_image": video, "grad_text": text}
    if "margin" in options:
        similarity = cosine_matrix(pair.text, pair.video)
        loss = max_margin(similarity, options["margin"], fix_norm=options["fix_norm"])
    else:
        scale = torch.tensor(options["logit_scale"], requires_grad=True)
        leaves["grad_scale"] = scale
        if "scale_init" in options:
            log_pseudo = torch.tensor(-math.log(options["scale_init"]), requires_grad=True)
            leaves["grad_pseudo"] = log_pseudo
            is_human = dist.gather_no_grad(inputs["gt"][start : start + size])
            loss = ssl_clip(
                **pair._asdict(), is_human=is_human, scale=scale, pseudo_scale=log_pseudo.exp()
            ).loss
        else:
            loss = info_nce(**pair._asdict(), scale=scale).loss
    loss.backward()
    return {"loss": loss.detach()} | _grads(**leaves)


def _gather_mode(options: Options) -> dist.GatherMode:
    """Our name of the published switches; max-margin has none and gathers as ``use_vissl`` does."""
    if options.get("use_vissl", True):
        return "full"
    if options.get("local_loss"):
        return "sharded" if options.get("gather_with_grad") else "legacy_local_loss"
    return "full" if options.get("gather_with_grad") else "legacy_local_grad"


def _compare(case: GoldenCase, name: str, values: Values) -> None:
    for key, golden in case.group(f"outputs/{name}").items():
        tolerance = "F" if key == "loss" else "G"
        case.close(f"{name}/{key}", values[key].reshape(golden.shape), golden, tolerance)


def check_metric_egomcq(case: GoldenCase) -> None:
    """Accuracy per type under the published, swapped names; by id under ours."""
    inputs = case.group("inputs")
    for name, source in case.json.get("inputs_of", {}).items():
        if name not in case.json:
            continue
        scores, answers, types = _questions(inputs, source)
        published = choice_accuracy(scores, answers, types, legacy_names=True)
        case.exact(f"{name}/names", sorted(published), sorted(case.json[name]))
        for key, golden in case.json[name].items():
            case.close(f"{name}/{key}", published[key], golden, "M")
        by_id = choice_accuracy(scores, answers, types)
        values = [by_id[key] for key in ("inter_video", "intra_video") if key in by_id]
        in_order = [key for key in ("Intra-video", "Inter-video") if key in published]
        case.close(f"{name}/by id", values, [case.json[name][k] for k in in_order], "M")


def _questions(inputs: Values, source: Sequence[str] | str) -> list[Tensor]:
    """Scores, answers and types: named, or in words the rows of the plain ones of one type."""
    if not isinstance(source, str):
        return [inputs[key] for key in source]
    found = re.fullmatch(r"the rows of (\w+), (\w+), (\w+) whose \w+ is (\d+)", source)
    assert found, f"inputs_of says {source!r}"
    tensors = [inputs[key] for key in found.groups()[:3]]
    rows = tensors[2] == int(found[4])
    return [x[rows] for x in tensors]


def check_scheduler(case: GoldenCase) -> None:
    """Learning rate of every iteration."""
    for name, args in case.json.get("args", {}).items():
        config = OptimConfig(
            schedule="cosine",
            lr=args["base_value"],
            lr_start=args["start_warmup_value"],
            lr_end=args["final_value"],
            warmup_epochs=args["warmup_epochs"],
        ).in_steps(args["niter_per_ep"])
        total = args["epochs"] * args["niter_per_ep"]
        rates = np.array([lr_at(step, config, total) for step in range(total)])
        case.close(name, rates, case.tensors[f"outputs/{name}"], "L")
