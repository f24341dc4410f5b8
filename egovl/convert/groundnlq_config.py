"""GroundNLQ's configuration files: the default tree, how a file is merged over it, ours from it.

The published code copies missing keys from the defaults, then the sizes of the data into the model
(GroundNLQ spec 7.2).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from egovl.convert.unpickle import CheckpointError
from egovl.engine.configs import OptimConfig
from egovl.losses.grounding_configs import GroundingLossConfig
from egovl.metrics.configs import NmsMethod, SpanDecodingConfig
from egovl.models.grounder.configs import GrounderConfig, Layers

logger = logging.getLogger(__name__)

Tree = dict[str, Any]

LEFT_OVER = ("trunc_thresh", "crop_ratio")
"""Keys of ActionFormer in three released files; the published data set fails on them."""
LR_END = 1e-8

DEFAULTS: Tree = {
    "init_rand_seed": 12345678,
    "dataset_name": "epic",
    "devices": ["cuda:0"],
    "train_split": ["training"],
    "val_split": ["validation"],
    "model_name": "LocPointTransformer",
    "dataset": {
        "feat_stride": 16,
        "num_frames": 32,
        "default_fps": None,
        "input_vid_dim": 2304,
        "input_txt_dim": 512,
        "num_classes": 1,
        "downsample_rate": 1,
        "max_seq_len": 2560,
        "enable_temporal_jittering": False,
    },
    "loader": {"batch_size": 2, "num_workers": 4},
    "model": {
        "backbone_type": "convTransformer",
        "fpn_type": "identity",
        "backbone_arch": [2, 2, 2, 0, 6],
        "scale_factor": 2,
        "regression_range": [[0, 4], [4, 8], [8, 16], [16, 32], [32, 64], [64, 10000]],
        "n_head": 4,
        "n_mha_win_size": -1,
        "embd_kernel_size": 3,
        "embd_dim": 512,
        "embd_with_ln": True,
        "fpn_dim": 512,
        "fpn_with_ln": True,
        "fpn_start_level": 0,
        "head_dim": 512,
        "head_kernel_size": 3,
        "head_num_layers": 3,
        "head_with_ln": True,
        "max_buffer_len_factor": 4.0,
        "use_abs_pe": False,
        "use_rel_pe": False,
    },
    "train_cfg": {
        "center_sample": "radius",
        "center_sample_radius": 1.5,
        "loss_weight": 1.0,
        "cls_prior_prob": 0.01,
        "init_loss_norm": 2000,
        "clip_grad_l2norm": -1,
        "head_empty_cls": [],
        "dropout": 0.0,
        "droppath": 0.1,
        "label_smoothing": 0.0,
    },
    "test_cfg": {
        "pre_nms_thresh": 0.001,
        "pre_nms_topk": 5000,
        "iou_threshold": 0.1,
        "min_score": 0.01,
        "max_seg_num": 1000,
        "nms_method": "soft",
        "nms_sigma": 0.5,
        "duration_thresh": 0.05,
        "multiclass_nms": True,
        "ext_score_file": None,
        "voting_thresh": 0.75,
    },
    "opt": {
        "type": "AdamW",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "learning_rate": 0.001,
        "backbone_lr_weight": 1,
        "epochs": 30,
        "warmup": True,
        "warmup_epochs": 5,
        "schedule_type": "cosine",
        "schedule_steps": [],
        "schedule_gamma": 0.1,
    },
}

_OUTPUT_FOLDER = "./ckpt/"
_COPIED = ("input_vid_dim", "input_txt_dim", "num_classes", "max_seq_len")


def merge_over_defaults(tree: Mapping[str, Any]) -> Tree:
    """A published file with what it leaves out, as the published code sees it."""
    merged = _filled(tree, DEFAULTS | {"output_folder": _OUTPUT_FOLDER})
    merged["model"] |= {key: merged["dataset"][key] for key in _COPIED}
    return merged


def _filled(tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> Tree:
    filled = copy.deepcopy(dict(tree))
    for key, value in defaults.items():
        if key not in filled:
            filled[key] = copy.deepcopy(value)
        elif isinstance(value, Mapping):
            filled[key] = _filled(filled[key], value)
    return filled


@dataclass(frozen=True)
class PublishedRun:
    """A published file as configs of ours; rates and batches are those of one GPU."""

    model: GrounderConfig
    loss: GroundingLossConfig
    decoding: SpanDecodingConfig
    optim: OptimConfig
    epochs: float
    batch_size: int


def read_config(tree: Mapping[str, Any]) -> PublishedRun:
    """A merged published tree as configs of ours.

    Raises:
        CheckpointError: an option that the published code does not have either.
    """
    model, train = tree["model"], tree.get("train_cfg") or tree["model"]["train_cfg"]
    unused = sorted(set(LEFT_OVER) & set(tree.get("dataset", {})))
    if unused:
        logger.warning("dataset: %s are left over from another system and ignored", unused)
    return PublishedRun(
        model=read_model(model, train),
        loss=read_loss(train),
        decoding=read_decoding(tree.get("test_cfg") or model["test_cfg"]),
        optim=read_optim(tree["opt"], train.get("clip_grad_l2norm", -1)),
        epochs=run_epochs(tree["opt"]),
        batch_size=tree.get("loader", {}).get("batch_size", 2),
    )


def read_model(model: Mapping[str, Any], train: Mapping[str, Any]) -> GrounderConfig:
    """The published `model` section, and what of `train_cfg` shapes or fills the model."""
    if model.get("backbone_type", "convTransformer") != "convTransformer":
        raise CheckpointError(
            f"backbone_type {model['backbone_type']!r}: GroundNLQ has convTransformer only"
        )
    window = model["n_mha_win_size"]
    return GrounderConfig(
        video_dim=model["input_vid_dim"],
        text_dim=model["input_txt_dim"],
        num_classes=model["num_classes"],
        max_length=model["max_seq_len"],
        layers=Layers(*model["backbone_arch"]),
        width=model["embd_dim"],
        heads=model["n_head"],
        window=tuple(window) if isinstance(window, list) else (window,),
        legacy_window_index=True,
        scale_factor=model["scale_factor"],
        kernel=model["embd_kernel_size"],
        embed_norm=model["embd_with_ln"],
        absolute_positions=model["use_abs_pe"],
        relative_positions=model["use_rel_pe"],
        neck=model["fpn_type"],
        neck_dim=model["fpn_dim"],
        neck_norm=model["fpn_with_ln"],
        start_level=model["fpn_start_level"],
        head_dim=model["head_dim"],
        head_kernel=model["head_kernel_size"],
        head_layers=model["head_num_layers"],
        head_norm=model["head_with_ln"],
        class_prior=train["cls_prior_prob"],
        empty_classes=tuple(train["head_empty_cls"]),
        ranges=tuple((low, high) for low, high in model["regression_range"]),
        dropout=train["dropout"],
        drop_path=train["droppath"],
        normalizer_init=float(train["init_loss_norm"]),
        legacy_text_padding=True,
        legacy_video_padding=True,
    )


def read_loss(train: Mapping[str, Any]) -> GroundingLossConfig:
    """The published `train_cfg` section."""
    return GroundingLossConfig(
        center_sample=train["center_sample"],
        radius=train["center_sample_radius"],
        regression_weight=train["loss_weight"],
        label_smoothing=train["label_smoothing"],
    )


def read_decoding(test: Mapping[str, Any]) -> SpanDecodingConfig:
    """The published `test_cfg` section; decoding has its published half window and ties."""
    if test.get("ext_score_file") is not None:
        raise CheckpointError("ext_score_file: left over from another system, never read")
    return SpanDecodingConfig(
        min_candidate_score=test["pre_nms_thresh"],
        candidates_per_level=test["pre_nms_topk"],
        min_length=test["duration_thresh"],
        max_spans=test["max_seg_num"],
        nms=cast(NmsMethod, test["nms_method"]),
        iou_threshold=test["iou_threshold"],
        sigma=test["nms_sigma"],
        min_score=test["min_score"],
        per_class=test["multiclass_nms"],
        voting_threshold=test["voting_thresh"],
        legacy_half_window=True,
        legacy_ties=True,
    )


_SCHEDULES: dict[str, Literal["cosine", "constant", "milestones"]] = {
    "cosine": "cosine",
    "constant": "constant",
    "multistep": "milestones",
}


def read_optim(opt: Mapping[str, Any], clip_grad: float = -1) -> OptimConfig:
    """The published `opt` section, with the learning rate of one GPU (GroundNLQ spec 5)."""
    schedule = _SCHEDULES[opt.get("schedule_type", "cosine")]
    milestones = tuple(float(epoch) for epoch in opt["schedule_steps"])
    warmup = float(opt["warmup_epochs"]) if opt["warmup"] else 0.0
    return OptimConfig(
        name="sgd" if opt["type"] == "SGD" else "adamw",
        lr=opt["learning_rate"],
        weight_decay=opt["weight_decay"],
        momentum=opt["momentum"],
        schedule=schedule,
        milestones=milestones if schedule == "milestones" else (),
        milestone_factor=opt["schedule_gamma"],
        milestones_after_warmup=schedule == "milestones",
        warmup_epochs=warmup,
        lr_start=0.0,
        # plain cosine without a warm-up ends at 0
        lr_end=LR_END if warmup else 0.0,
        scale_lr_end=False,
        clip_grad_norm=clip_grad if clip_grad > 0 else None,
        backbone_lr_scale=float(opt["backbone_lr_weight"]),
    )


def run_epochs(opt: Mapping[str, Any]) -> float:
    """Epochs of a published run, the warm-up included, unless it says when to stop."""
    if opt.get("early_stop_epochs") is not None:
        return float(opt["early_stop_epochs"])
    return float(opt["epochs"] + (opt["warmup_epochs"] if opt["warmup"] else 0))
