"""Checks of parameter groups, schedules, moving average and configuration trees (GroundNLQ)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from egovl.convert import groundnlq
from egovl.convert.groundnlq_config import (
    DEFAULTS,
    merge_over_defaults,
    read_config,
    read_model,
    read_optim,
    run_epochs,
)
from egovl.engine.average import WeightAverage
from egovl.engine.optim import build_optimizer, scaled_lr_at
from egovl.recipe import load_recipe
from tests.architecture.source import ROOT
from tests.parity.golden import GoldenCase

Options = Mapping[str, Any]
Group = tuple[float, float, list[str]]


def check_optim(case: GoldenCase) -> None:
    """Groups by name, the rate of every step for each schedule, the average of weights."""
    if "groups" in case.json:
        check_groups(case)
    for kind, golden in case.json.get("schedules", {}).items():
        check_schedule(case, kind, golden)
    if case.group("inputs"):
        check_average(case)


def check_groups(case: GoldenCase) -> None:
    section = case.json["model"]
    model = read_model(section, section["train_cfg"]).build()
    config = read_optim(case.json["opt"])
    optimizer = build_optimizer(model, config)
    names = {id(param): name for name, param in model.named_parameters()}
    own: list[Group] = []
    for group in optimizer.param_groups:
        published = [
            groundnlq.GROUNDER_KEYS.to_published(names[id(param)]) or ""
            for param in group["params"]
        ]
        rate = config.lr * group.get("lr_scale", 1.0)
        own.append((group["weight_decay"], rate, sorted(published)))
    golden = [(g["weight_decay"], g["lr"], sorted(g["params"])) for g in case.json["groups"]]
    own.sort(key=_place)
    golden.sort(key=_place)
    case.exact("groups", [names for _, _, names in own], [names for _, _, names in golden])
    case.exact("decay", [decay for decay, _, _ in own], [decay for decay, _, _ in golden])
    case.close("rates", [rate for _, rate, _ in own], [rate for _, rate, _ in golden], "L")
    for name in ("betas", "eps"):
        if name in case.json and case.json["opt"]["type"] != "SGD":
            case.exact(name, optimizer.defaults[name], case.json[name])


def _place(group: Group) -> tuple[float, float]:
    return -group[1], -group[0]


def check_schedule(case: GoldenCase, kind: str, golden: Sequence[Sequence[float]]) -> None:
    opt, per_epoch = dict(case.json["opt"]), case.json["iters_per_epoch"]
    opt["schedule_type"] = kind
    config = read_optim(opt).in_steps(per_epoch)
    total = round(run_epochs(opt) * per_epoch)
    scales = [1.0] if config.backbone_lr_scale == 1.0 else [1.0, config.backbone_lr_scale]
    scales = sorted(scales, reverse=True)[: len(golden[0])]
    own = [
        [scaled_lr_at(step, config, total, scale) for scale in scales]
        for step in range(len(golden))
    ]
    case.close(kind, own, golden, "L")


def check_average(case: GoldenCase) -> None:
    inputs, outputs = case.group("inputs"), case.group("outputs")
    count = sum(name.startswith("w") for name in inputs)
    module = nn.Linear(*reversed(inputs["w0"].shape))
    average: WeightAverage | None = None
    for step in range(count):
        with torch.no_grad():
            module.weight.copy_(inputs[f"w{step}"])
            module.bias.copy_(inputs[f"b{step}"])
        if average is None:
            average = WeightAverage(module, case.json["ema_decay"])
        else:
            average.update(module)
    assert average is not None
    for name, golden in outputs.items():
        case.close(name, average.tensors[name.removeprefix("module.")], golden, "O")


# --- configuration trees ------------------------------------------------------------------------

# published file -> ours, and the GPUs that its name counts on
PUBLISHED = {
    "ego4d_narrations_nlq_internvideo": ("pretrain_narrations", 4),
    "ego4d_nlq_v2_internvideo_1e-4": ("scratch_nlq_v2_1e-4", 2),
    "ego4d_nlq_v2_internvideo_5e-5": ("scratch_nlq_v2_5e-5", 1),
    "ego4d_nlq_v2_internvideo_1e-4_groundnlq_star": ("scratch_nlq_v2_1e-4_star", 2),
    "ego4d_nlq_v2_pretrain_finetune_internvideo_2.5e-5": ("finetune_nlq_v2_train_val_2.5e-5", 1),
    "ego4d_nlq_v2_pretrain_finetune_internvideo_5e-5": ("finetune_nlq_v2_train_val_5e-5", 2),
    "ego4d_nlq_v2_pretrain_finetune_internvideo_5e-5_train+val": (
        "finetune_nlq_v2_train_val_5e-5",
        2,
    ),
    "ego4d_nlq_v2_internvideo_inference_test": ("inference_nlq_v2_test", 1),
}


def check_config_defaults(case: GoldenCase) -> None:
    """The whole default tree."""
    case.exact("defaults", DEFAULTS, case.json)
    case.exact("keys", _keys(DEFAULTS), _keys(case.json))


def _keys(tree: Options, prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found.append(prefix + key)
        if isinstance(value, Mapping):
            found += _keys(value, f"{prefix}{key}.")
    return sorted(found)


def check_configs_merged(case: GoldenCase) -> None:
    """What a file leaves out comes from the defaults; our recipe of that name says the same."""
    for name, golden in case.json.items():
        if not isinstance(golden, Mapping) or "model" not in golden:
            continue
        merged = merge_over_defaults(without_defaults(golden))
        case.exact(name, merged, golden)
        case.exact(f"{name} keys", _keys(merged), _keys(golden))
        if name in PUBLISHED:
            check_recipe(case, name, golden)


def without_defaults(tree: Options) -> dict[str, Any]:
    """The least that a file must say: what differs from the defaults, and what they lack."""
    kept = copy.deepcopy(dict(tree))
    for section, defaults in DEFAULTS.items():
        if section not in kept:
            continue
        if isinstance(defaults, Mapping):
            for key, value in defaults.items():
                if kept[section].get(key, object()) == value:
                    del kept[section][key]
        elif kept[section] == defaults:
            del kept[section]
    for key in ("input_vid_dim", "input_txt_dim", "num_classes", "max_seq_len"):
        kept["model"].pop(key, None)
    if kept.get("output_folder") == "./ckpt/":
        del kept["output_folder"]
    return kept


def check_recipe(case: GoldenCase, name: str, golden: Options) -> None:
    """Model, loss, decoding, optimiser and data of our yaml against the published tree."""
    file, gpus = PUBLISHED[name]
    recipe = load_recipe(ROOT / "configs" / "groundnlq" / f"{file}.yaml")
    published = read_config(golden)
    model = vars(recipe.model) | {"legacy_window_index": True}
    case.exact(f"{name} model", str(model), str(vars(published.model)))
    evaluation = next(iter(recipe.evaluate.values()))
    decoding = vars(evaluation.task.decoding)
    # a threshold without effect, which the recipes leave out
    unused = {"voting_threshold": published.decoding.voting_threshold}
    own = decoding | (unused if published.decoding.per_class else {})
    case.exact(f"{name} decoding", own, vars(published.decoding))
    for stage in filter(None, (recipe.train, evaluation)):
        dataset, section = stage.dataset, golden["dataset"]
        grid = dataset.stride_frames, dataset.window_frames, dataset.fps
        asked = tuple(section[key] for key in ("feat_stride", "num_frames", "default_fps"))
        case.exact(f"{name} grid", grid, asked)
    if recipe.train is None:
        return
    case.exact(f"{name} loss", vars(recipe.train.task.loss), vars(published.loss))
    case.exact(
        f"{name} jitter",
        recipe.train.dataset.jitter,
        golden["dataset"]["enable_temporal_jittering"],
    )
    case.exact(f"{name} batch", recipe.train.loader.batch_size, published.batch_size * gpus)
    optim = vars(recipe.optim) | {"lr": recipe.optim.lr / gpus}
    case.close(f"{name} rate", optim.pop("lr"), published.optim.lr, "L")
    theirs = {key: value for key, value in vars(published.optim).items() if key != "lr"}
    case.exact(f"{name} optim", optim, theirs)
    case.exact(f"{name} epochs", recipe.trainer.epochs, published.epochs)
    annotations = [path.name for path in recipe.train.dataset.annotations]
    assert annotations, name
