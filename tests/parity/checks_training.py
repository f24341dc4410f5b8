"""EgoVLP's losses, optimiser, learning rate, checkpoint policy and whole training step."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from egovl import dist
from egovl.convert import egovlp
from egovl.engine.configs import OptimConfig
from egovl.engine.monitor import Monitor
from egovl.engine.optim import build_optimizer, lr_at
from egovl.losses.classification import classification_loss, keyframe_loss
from egovl.losses.ego_nce import ego_nce, norm_softmax, tag_positives
from egovl.losses.ranking import max_margin
from egovl.losses.similarity import cosine_matrix
from egovl.models.dual_encoder import DualEncoder
from tests.parity.golden import GoldenCase
from tests.ranks import run_ranks

Options = Mapping[str, Any]


# --- losses -------------------------------------------------------------------------------------


def check_egovlp_losses(case: GoldenCase) -> None:
    """Every loss and its gradient by the similarities; similarities of tags."""
    for name, options in case.json.get("options", {}).items():
        similarity = case.tensors[options["sim"]].clone().requires_grad_()
        loss = _LOSSES[options["loss"]](case, similarity, options)
        loss.backward()
        if name in case.json.get("values", {}):
            case.close(name, loss.item(), case.json["values"][name], "F")
        if (golden := case.tensors.get(f"outputs/grad/{name}")) is not None:
            case.close(f"grad/{name}", similarity.grad, golden, "G")
    inputs = case.group("inputs")
    for output, (a, b) in {
        "sim_noun": ("noun_vec", "noun_vec"),
        "sim_verb": ("verb_vec", "verb_vec"),
        "sim_ab": ("a", "b"),
    }.items():
        if f"outputs/{output}" in case.tensors:
            own = cosine_matrix(inputs[a], inputs[b])
            case.close(output, own, case.tensors[f"outputs/{output}"], "F")


def _ego_nce(case: GoldenCase, similarity: Tensor, options: Options) -> Tensor:
    if "tags" in options:
        assert options["tags"] == "sim_verb = sim_noun = 0", options
        positives = torch.eye(len(similarity), dtype=torch.bool)
    else:
        positives = tag_positives(
            case.tensors["inputs/noun_vec"],
            case.tensors["inputs/verb_vec"],
            use_noun=options["noun"],
            use_verb=options["verb"],
        )
    return ego_nce(similarity, positives, options["temperature"])


def _margin(case: GoldenCase, similarity: Tensor, options: Options) -> Tensor:
    weight = case.tensors[options["weight"]] if "weight" in options else None
    return max_margin(similarity, options["margin"], weight=weight, fix_norm=options["fix_norm"])


def _keyframe(case: GoldenCase, similarity: Tensor, options: Options) -> Tensor:
    state = torch.ones(len(similarity))
    if options["state"] != "all ones":
        state = case.tensors[options["state"]]
    target = case.tensors[options["target"]]
    target = target.argmax(dim=1) if target.dim() == 2 else target
    return keyframe_loss(similarity, target, state, legacy_mean=True)


_LOSSES: Mapping[str, Callable[[GoldenCase, Tensor, Options], Tensor]] = {
    "normsoftmax": lambda case, sim, options: norm_softmax(sim, options["temperature"]),
    "egonce": _ego_nce,
    "maxmargin": _margin,
    "adaptive_maxmargin": _margin,
    "cross_entropy": lambda case, sim, options: classification_loss(
        sim, case.tensors[options["target"]], smoothing=0.0
    ),
    "pnr": _keyframe,
}


def check_distributed_egonce(case: GoldenCase) -> None:
    """Losses, embedding gradients and averaged parameter gradients of every rank; one process."""
    world_size = case.json["world_size"]
    outputs = case.group("outputs")
    ranks = run_ranks(world_size, _egonce_rank, str(case.path))
    for rank, values in enumerate(ranks):
        losses = case.json.get("loss_per_rank", [])
        if rank < len(losses):
            case.close(f"rank{rank}/loss", values["loss"].item(), losses[rank], "F")
        for name, golden in case.group(f"outputs/rank{rank}").items():
            case.close(f"rank{rank}/{name}", values[name], golden, "G")
    single = _egonce_whole(case)
    if "single_process_loss" in case.json:
        case.close("single loss", single["loss"].item(), case.json["single_process_loss"], "F")
    for name in (n for n in outputs if n.startswith("single/grad_")):
        case.close(name, single[name.removeprefix("single/grad_")], outputs[name], "G")
    if "ddp_grad_over_true_grad" in case.json:
        averaged = ranks[0]["param_grad/t.weight"]
        ratio = (averaged.norm() / single["t.weight"].norm()).item()
        case.close("ratio", ratio, case.json["ddp_grad_over_true_grad"], "G")


def _towers(case: GoldenCase) -> nn.ModuleDict:
    """Linear towers with the stored weights."""
    weights = case.group("weights")
    towers = nn.ModuleDict()
    for name in ("t", "v"):
        width = weights[f"{name}.weight"].shape
        towers[name] = nn.Linear(width[1], width[0], bias=f"{name}.bias" in weights)
    towers.load_state_dict(weights)
    return towers


def _egonce_rank(path: str) -> dict[str, Tensor]:
    case = GoldenCase(Path(path))
    towers, inputs = _towers(case), {k: v[dist.rank()] for k, v in case.group("inputs").items()}
    text, video = towers["t"](inputs["tx"]), towers["v"](inputs["vx"])
    text.retain_grad()
    video.retain_grad()
    pair = dist.gather_pair(video, text, "legacy_local_grad")
    loss = _egonce_of(
        case.json,
        pair.video,
        pair.text,
        dist.gather_no_grad(inputs["nv"]),
        dist.gather_no_grad(inputs["vv"]),
    )
    loss.backward()
    values = {
        "loss": loss.detach(),
        "text_embed_grad": text.grad,
        "video_embed_grad": video.grad,
    }
    for name, param in towers.named_parameters():
        assert param.grad is not None
        torch_dist.all_reduce(param.grad)  # what DDP does
        values[f"param_grad/{name}"] = param.grad / dist.world_size()
    return values


def _egonce_whole(case: GoldenCase) -> dict[str, Tensor]:
    towers = _towers(case)
    inputs = {name: tensor.flatten(0, 1) for name, tensor in case.group("inputs").items()}
    text, video = towers["t"](inputs["tx"]), towers["v"](inputs["vx"])
    loss = _egonce_of(case.json, video, text, inputs["nv"], inputs["vv"])
    loss.backward()
    grads = {name: param.grad for name, param in towers.named_parameters()}
    return {"loss": loss.detach()} | {n: g for n, g in grads.items() if g is not None}


def _egonce_of(options: Options, video: Tensor, text: Tensor, noun: Tensor, verb: Tensor) -> Tensor:
    positives = tag_positives(noun, verb, use_noun=options["noun"], use_verb=options["verb"])
    return ego_nce(cosine_matrix(text, video), positives, options["temperature"])


# --- optimiser, learning rate, checkpoints ------------------------------------------------------


def check_optimizer(case: GoldenCase) -> None:
    """Weights after every step of the optimiser of transformers 4.2.1."""
    assert "transformers" in case.json["library"], case.json["library"]
    param = nn.Parameter(case.tensors["inputs/p0"].clone())
    optimizer = build_optimizer(nn.ParameterDict({"p": param}), _optim_config(case.json))
    for step in range(len([name for name in case.tensors if "inputs/g" in name])):
        param.grad = case.tensors[f"inputs/g{step}"].clone()
        optimizer.step()
        if (golden := case.tensors.get(f"outputs/p{step + 1}")) is not None:
            case.close(f"p{step + 1}", param, golden, "O")


def _optim_config(options: Options) -> OptimConfig:
    return OptimConfig(
        name="legacy_adamw",
        lr=options["lr"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
        weight_decay=options["weight_decay"],
        decay_all=True,
    )


def check_lr_schedule(case: GoldenCase) -> None:
    """Learning rate of every epoch, whatever the number of steps in one."""
    golden = case.json["lr_used_in_epoch_1_to_n"]
    for steps in (1, 3):
        config = OptimConfig(
            lr=case.json["optimizer_lr"],
            schedule="milestones",
            milestones=tuple(case.json["schedule"]),
            legacy_lr_after_epoch1=case.json["learning_rate1"],
        ).in_steps(steps)
        total = steps * len(golden)
        own = [lr_at(step, config, total) for step in range(total)]
        case.close(f"{steps} steps an epoch", own, [lr for lr in golden for _ in range(steps)], "L")


def check_monitor_policy(case: GoldenCase) -> None:
    """Epochs that are saved, those that are best, and whether anything is watched at the end."""
    for number, entry in enumerate(case.json["cases"]):
        monitor = Monitor(entry["monitor"])
        saved: list[list[Any]] = []
        for epoch in range(1, entry["epochs"] + 1):
            best = monitor.improved(_epoch_metrics(entry["results"][epoch - 1], entry["monitor"]))
            if best or epoch % entry["save_period"] == 0:
                saved.append([epoch, best])
        case.exact(f"{number} saved", saved, entry["saved"])
        case.exact(f"{number} final_mode", monitor.mode, entry["final_mode"])


def _epoch_metrics(results: Mapping[str, Mapping[str, float]], rule: str) -> dict[str, float]:
    """As the published trainer names them; its validation loss is always 0."""
    named = {"val_loss_0": 0.0}
    # the table calls the metric function by another name than the rule does
    function = re.match(r"\w+ val_0_(.+)_[^_]+$", rule)
    for values in results.values():
        for name, value in values.items():
            for metric in {*results, *([function[1]] if function else [])}:
                named[f"val_0_{metric}_{name}"] = value
    return named


# --- the whole step -----------------------------------------------------------------------------


def check_dual_encoder_step(case: GoldenCase, model: DualEncoder) -> None:
    """Loss, gradient norms and weights of one training step on anchors and negatives."""
    options = case.json.get("train_options")
    inputs = case.group("inputs")
    if options is None or "train_video" not in inputs:
        return
    assert options["loss"] == "EgoNCE", options
    model.train()
    videos = model.encode_video(inputs["train_video"].transpose(1, 2))
    texts = model.encode_text(inputs["train_input_ids"], inputs["train_attention_mask"])
    loss = _egonce_of(options, videos, texts, inputs["train_noun_vec"], inputs["train_verb_vec"])
    loss.backward()
    if "train_loss" in case.json:
        case.close("train_loss", loss.item(), case.json["train_loss"], "F")
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    own = egovlp.DUAL_ENCODER_KEYS.publish(grads)
    for name, norm in case.json.get("grad_norms", {}).items():
        case.close(f"grad_norm {name}", own[name].norm().item(), norm, "G")
    if "total_grad_norm" in case.json:
        total = torch.stack([grad.norm() for grad in own.values()]).norm().item()
        case.close("total_grad_norm", total, case.json["total_grad_norm"], "G")
    build_optimizer(model, _optim_config(options["optimizer"])).step()
    weights = {n: t for n, t in model.state_dict().items() if "logit_scale" not in n}
    moved = egovlp.DUAL_ENCODER_KEYS.publish(weights)
    for name, golden in case.group("outputs/after_step").items():
        case.close(f"after_step {name}", moved[name], golden, "O")
