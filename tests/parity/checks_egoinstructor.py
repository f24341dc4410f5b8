"""Egoinstructor's retrieval side: towers, EgoExoNCE, metrics, second-features, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl import dist
from egovl.convert import egoinstructor
from egovl.data.configs import CLIPBPEConfig
from egovl.engine.configs import OptimConfig
from egovl.engine.optim import lr_at, param_groups
from egovl.losses.ego_exo_nce import ego_exo_nce, group_positives
from egovl.losses.ego_nce import tag_positives
from egovl.losses.similarity import cosine_matrix
from egovl.metrics.choice import choice_accuracy
from egovl.metrics.classification import confusion_accuracy, label_precision
from egovl.metrics.retrieval import mir_metrics
from egovl.metrics.view_retrieval import diagonal_ranks, pair_recalls, rank_metrics
from egovl.models.configs import TextTowerConfig
from egovl.models.layers.sinusoid import sinusoid_table
from egovl.models.retriever import ViewRetriever, stretch_positions
from egovl.models.view_configs import (
    EgoFeatureEncoderConfig,
    FeatureTowerConfig,
    ViewRetrieverConfig,
)
from tests.parity.golden import GoldenCase
from tests.ranks import run_ranks

TYPES = ("Inter-video", "Intra-video")


# --- models -------------------------------------------------------------------------------------


def _text_config(sizes: Mapping[str, Any]) -> TextTowerConfig:
    return TextTowerConfig(
        vocab_size=sizes["vocab"],
        context_length=sizes["context_length"],
        width=sizes["text_width"],
        heads=sizes["text_heads"],
        depth=sizes["text_layers"],
    )


def _retriever(case: GoldenCase) -> ViewRetriever:
    sizes = case.json
    config = ViewRetrieverConfig(
        video=FeatureTowerConfig(
            feature_width=sizes["vision_width"],
            num_frames=sizes["vision_length"],
            depth=sizes["vision_layers"],
            heads=sizes["vision_heads"],
        ),
        text=_text_config(sizes),
        embed_dim=sizes["embed_dim"],
        temperature_init=sizes.get("temperature_init", 0.07),
        normalize=False,
    )
    model = config.build().eval()
    egoinstructor.load_retriever(model, case.group("weights"))
    return model


def check_retrieval_model(case: GoldenCase) -> None:
    """Both towers for several lengths, normalised or not, position table, decay groups."""
    model, inputs = _retriever(case), case.group("inputs")
    for name, golden in case.group("outputs").items():
        case.close(name, _retriever_output(model, inputs, name, golden), golden, "F")
    groups = dict(zip(("decay", "no_decay"), param_groups(model, 0.01), strict=True))
    for name, group in groups.items():
        if name in case.json:
            published = [egoinstructor.RETRIEVER_KEYS.to_published(n) for n in group["names"]]
            case.exact(name, sorted(map(str, published)), sorted(case.json[name]))


def _retriever_output(
    model: ViewRetriever, inputs: Mapping[str, Tensor], name: str, golden: Tensor
) -> Tensor:
    if name == "logit_scale":
        return model.logit_scale[0].exp()
    if name == "visual_positional_embedding":
        return sinusoid_table(golden.shape[0], golden.shape[1])
    if name == "image_tokens_no_project":
        return model.video.forward_tokens(inputs["video"])
    side, _, suffix = name.partition("_embed")
    suffix, normalize = suffix.removesuffix("_norm"), suffix.endswith("_norm")
    if side == "image":
        return model.encode_video(inputs[f"video{suffix}"], normalize=normalize)
    assert side == "text", name
    return model.encode_text(inputs[f"text{suffix}"], normalize=normalize)


def check_ego_feature_encoder(case: GoldenCase) -> None:
    """Tokens, position table, features and text embeddings of the VideoMAE tower."""
    sizes = case.json
    config = EgoFeatureEncoderConfig(
        image_size=sizes["img"],
        patch_size=sizes["patch"],
        num_frames=sizes["frames"],
        frames_per_token=sizes["tubelet"],
        width=sizes["dim"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        norm_eps=sizes["ln_eps"],
        text=_text_config(sizes),
        embed_dim=sizes["embed_dim"],
    )
    model = config.build().eval()
    egoinstructor.load_ego_encoder(model, case.group("weights"))
    inputs = case.group("inputs")
    values: dict[str, Callable[[], Tensor]] = {
        "tokens": lambda: model.video.forward_tokens(inputs["video"]),
        "pos_embed": lambda: model.video.positions()[None],
        "image_embed": lambda: model.encode_video(inputs["video"]),
        "text_embed": lambda: model.encode_text(inputs["text"]),
    }
    for name, golden in case.group("outputs").items():
        case.close(name, values[name](), golden, "F")


# --- EgoExoNCE ----------------------------------------------------------------------------------


def check_ego_exo_nce(case: GoldenCase) -> None:
    """Loss and gradients of a full and of the last, smaller batch."""
    batches = sorted({key.split("/")[0] for key in case.tensors})
    for batch in batches:
        inputs, outputs = case.group(f"{batch}/inputs"), case.group(f"{batch}/outputs")
        leaves = {k: inputs[k].clone().requires_grad_() for k in ("image_embed", "text_embed")}
        leaves["log_logit_scale"] = inputs["log_logit_scale"].clone().requires_grad_()
        loss = _loss(leaves, inputs["noun_vec"], inputs["verb_vec"], case.json["pair_num"])
        loss.backward()
        values = {
            "loss": loss,
            "sim_nouns": cosine_matrix(inputs["noun_vec"], inputs["noun_vec"]),
            "sim_verbs": cosine_matrix(inputs["verb_vec"], inputs["verb_vec"]),
        }
        for name, golden in outputs.items():
            case.close(f"{batch}/{name}", values[name], golden, "F")
        for name, golden in case.group(f"{batch}/grads").items():
            case.close(f"{batch}/grad/{name}", leaves[name].grad, golden, "G")


def _loss(leaves: Mapping[str, Tensor], noun: Tensor, verb: Tensor, pair_num: int) -> Tensor:
    positives = tag_positives(noun, verb) | group_positives(len(noun), 1 + pair_num)
    scale = leaves["log_logit_scale"].exp()
    return ego_exo_nce(leaves["image_embed"], leaves["text_embed"], scale, positives)


def check_ego_exo_nce_ranks(case: GoldenCase) -> None:
    """Losses and gradients of every rank before DDP's mean."""
    for rank, values in enumerate(run_ranks(case.json["world_size"], _rank, str(case.path))):
        for name, golden in case.group(f"rank{rank}/outputs").items():
            case.close(f"rank{rank}/{name}", values[name], golden, "F")
        for name, golden in case.group(f"rank{rank}/grads").items():
            case.close(f"rank{rank}/grad/{name}", values[f"grad_{name}"], golden, "G")


def _rank(path: str) -> dict[str, Tensor]:
    case = GoldenCase(Path(path))
    inputs = case.group(f"rank{dist.rank()}/inputs")
    leaves = {k: inputs[k].clone().requires_grad_() for k in ("image_embed", "text_embed")}
    scale = inputs.get("log_logit_scale", torch.tensor(case.json.get("log_logit_scale", 0.0)))
    leaves["log_logit_scale"] = scale.clone().requires_grad_()
    pair = dist.gather_pair(leaves["image_embed"], leaves["text_embed"], "full")
    gathered = {
        "image_embed": pair.video,
        "text_embed": pair.text,
        "log_logit_scale": leaves["log_logit_scale"],
    }
    tags = [dist.gather_no_grad(inputs[name]) for name in ("noun_vec", "verb_vec")]
    loss = _loss(gathered, tags[0], tags[1], case.json["pair_num"])
    loss.backward()
    grads = {f"grad_{k}": v.grad for k, v in leaves.items() if v.grad is not None}
    return {"loss": loss.detach(), **grads}


# --- metrics ------------------------------------------------------------------------------------


def check_retrieval_metrics(case: GoldenCase) -> None:
    """Every value that has inputs and is no mere record."""
    notes = set(case.json.get("notes_only", ()))
    for name, sources in case.json.get("inputs_of", {}).items():
        if name in notes or name not in case.json:
            continue
        tensors = [case.tensors[source] for source in sources]
        _METRICS[name.split("_")[0]](case, name, tensors)


def _check_recalls(case: GoldenCase, name: str, tensors: Sequence[Tensor]) -> None:
    for direction, golden in case.json[name].items():
        scores = tensors[0] if direction == "v2t" else tensors[0].T
        ranks = diagonal_ranks(scores, legacy_ties=True)
        found = rank_metrics(ranks)
        values = found | {"MR": found["MedianR"], "cols": ranks}
        for key, value in golden.items():
            tolerance = "X" if key == "cols" else "M"
            case.close(f"{name}/{direction}/{key}", values[key], value, tolerance)


def _check_mir(case: GoldenCase, name: str, tensors: Sequence[Tensor]) -> None:
    found = mir_metrics(tensors[0], tensors[1], on_empty="legacy_nan")
    for key, golden in case.json[name].items():
        percents = [found[f"{key}{direction}"] for direction in ("_v2t", "_t2v", "")]
        case.close(f"{name}/{key}", [value / 100 for value in percents], golden, "M")


def _check_choice(case: GoldenCase, name: str, tensors: Sequence[Tensor]) -> None:
    by_type = choice_accuracy(*tensors)
    # as published, the smallest type that occurs is called Inter-video, whatever it is
    values = [by_type[key] for key in ("inter_video", "intra_video") if key in by_type]
    found = dict(zip(TYPES, values, strict=False))
    case.exact(f"{name}/names", sorted(found), sorted(case.json[name]))
    for key, golden in case.json[name].items():
        case.close(f"{name}/{key}", found[key], golden, "M")


def _check_charades(case: GoldenCase, name: str, tensors: Sequence[Tensor]) -> None:
    found = label_precision(*tensors)
    values = {
        "mAP": found.mean(legacy_nan=True),
        "aps": found.per_class,
        "weighted": found.weighted,
    }
    for key, golden in case.json[name].items():
        case.close(f"{name}/{key}", values[key], golden, "M")


def _check_mean_accuracy(case: GoldenCase, name: str, tensors: Sequence[Tensor]) -> None:
    found = confusion_accuracy(tensors[0])
    case.close(name, [found["mean_class"], found["top1"]], case.json[name], "M")


_METRICS = {
    "retrieval": _check_recalls,
    "mir": _check_mir,
    "mcq": _check_choice,
    "charades": _check_charades,
    "mean": _check_mean_accuracy,
}


def check_retrieval_eval(case: GoldenCase) -> None:
    """Similarities of a tiny model, recalls and multiple choice from them."""
    model, inputs, mcq = _retriever(case), case.group("inputs"), case.group("mcq")

    def video(name: str, tensors: Mapping[str, Tensor], normalize: bool = True) -> Tensor:
        clips = tensors[name]
        embeds = model.encode_video(clips.flatten(0, -3), normalize=normalize)
        return embeds.unflatten(0, clips.shape[:-2])

    similarity: dict[str, Callable[[], Tensor]] = {
        "similarity": lambda: (
            video("video", inputs) @ model.encode_text(inputs["text"], normalize=True).T
        ),
        "v2v_similarity": lambda: video("video", inputs) @ video("exo_video", inputs).T,
    }
    stored = case.group("outputs")
    for name, golden in stored.items():
        case.close(name, similarity[name](), golden, "F")
    for name, source in {"v2t": "similarity", "v2v": "v2v_similarity"}.items():
        if name in case.json:
            scores = stored[source] if source in stored else similarity[source]()
            found = pair_recalls(scores.detach())
            for key, golden in case.json[name].items():
                case.close(f"{name}/{key}", found[key], golden, "M")
    options: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "mcq_unnormalised": lambda: (
            model.encode_text(mcq["text_query"], normalize=True),
            video("video_options", mcq, normalize=False),
        ),
        "mcq_if_normalised": lambda: (
            model.encode_text(mcq["text_query"], normalize=True),
            video("video_options", mcq),
        ),
        "v2v_mcq": lambda: (video("video_query", mcq), video("video_options", mcq)),
    }
    for name, embed in options.items():
        if name in case.json:
            query, choices = embed()
            scores = torch.einsum("qd,qkd->qk", query, choices).detach()
            _check_choice(case, name, [scores, mcq["answer"], mcq["types"]])


# --- tokens, positions, schedules ---------------------------------------------------------------


def check_retrieval_misc(case: GoldenCase) -> None:
    """CLIP's tokens, positions at other lengths, both learning rate schedules."""
    for text, length, golden in case.json.get("clip_bpe", []):
        tokens, _ = _bpe(length)(text)
        case.exact(f"bpe {length} {text[:20]}", tokens[0], golden)
    if batch := case.json.get("clip_bpe_batch"):
        rows = {tuple(row): text for text, _, row in case.json.get("clip_bpe", [])}
        length = len(batch[0])
        texts = list(dict.fromkeys(rows.values()))[: len(batch)]
        if len(texts) == len(batch):
            case.exact("bpe batch", _bpe(length)(texts)[0], batch)
    positions = case.tensors.get("inputs/pos")
    for name, golden in case.group("outputs").items():
        assert positions is not None and name.startswith("pos_to_")
        case.close(name, stretch_positions(positions, len(golden)), golden, "F")
    for name in (key for key in case.json if "scheduler" in key or "_lr" in key):
        _check_schedule(case, name)


def _bpe(length: int) -> Any:
    return CLIPBPEConfig(context_length=length, legacy_truncate=True).build()


def _check_schedule(case: GoldenCase, name: str) -> None:
    entry = case.json[name]
    if "args" in entry:
        args = entry["args"]
        config = OptimConfig(
            schedule="cosine",
            lr=args["base"],
            lr_start=args.get("start", 0.0),
            lr_end=args["final"],
            warmup_epochs=args.get("warmup_epochs", 0),
        ).in_steps(args["niter"])
        total = args["epochs"] * args["niter"]
    else:
        config = OptimConfig(schedule="hf_cosine", lr=entry["lr"])
        warmup = entry["total"] * entry["ratio"] // entry["accum"]
        if "warmup" in entry:
            case.close(f"{name}/warmup", warmup, entry["warmup"], "X")
        config = replace(config, warmup_steps=math.floor(warmup))
        total = entry["total"] // entry["accum"]
    values = [lr_at(step, config, total) for step in range(len(entry["values"]))]
    case.close(name, values, entry["values"], "L")
