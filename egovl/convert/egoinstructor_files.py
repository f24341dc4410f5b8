"""Egoinstructor's files as a whole: which model one holds, and ours in its layout (spec 1, 2.2)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egovl.convert import egoinstructor, egoinstructor_captioner
from egovl.convert.load import LoadReport, Tolerated, match_published
from egovl.convert.released import Converted
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.models.captioner.captioner import Captioner, is_trained
from egovl.models.captioner.configs import CaptionerConfig
from egovl.models.view_configs import ViewRetrieverConfig

logger = logging.getLogger(__name__)

_INDEX_NAMES = ("pytorch_model.bin.index.json", "model.safetensors.index.json")
_WHOLE_NAMES = ("model.safetensors", "pytorch_model.bin")


def convert_file(file: Path) -> Converted:
    """Read a released retriever or captioner; sizes stand in the tensors.

    A captioner's file holds the trained part: the frozen rest comes from the base model's folder.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it holds something else.
    """
    state = load_checkpoint(file).state
    try:
        if "aggregation_projection" in state:
            config = egoinstructor.retriever_config(state)
            own = _names(config)
            return Converted(config, *match_published(own, state, egoinstructor.RETRIEVER_KEYS))  # type: ignore[arg-type]
        found = egoinstructor_captioner.config_of_weights(state)
        own = _names(found)
        frozen = tuple(name.replace(".", r"\.") for name in own if not is_trained(name))
        joined = egoinstructor_captioner.join_qkv(state)
        keys = egoinstructor_captioner.CAPTIONER_KEYS
        weights, report = match_published(own, joined, keys, Tolerated(missing=frozen))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return Converted(found, weights, report)  # type: ignore[arg-type]


def publish(config: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint as the published code loads it: of a captioner the trained part.

    Raises:
        CheckpointError: the system has no such model.
    """
    if isinstance(config, CaptionerConfig):
        return dict(egoinstructor_captioner.publish(weights, trained_only=True))
    if not isinstance(config, ViewRetrieverConfig):
        raise CheckpointError(
            f"Egoinstructor has retrievers and captioners, no {type(config).__name__}"
        )
    state = egoinstructor.RETRIEVER_KEYS.publish(weights)
    return {
        "epoch": 0,
        "state_dict": {f"module.{name}": tensor.contiguous() for name, tensor in state.items()},
        "criterion": {},
        "optimizer": {},
        "scaler": {},
        "best_acc1": 0.0,
        "cfg": {},
    }


def load_own_captioner(model: Captioner, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a captioner from a file of ours, whole or its trained part alone."""
    found, report = match_own(model.config, model.state_dict(), state)
    model.load_state_dict(found, strict=False)
    return report


def match_own(
    config: object, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Check a file of ours against its model's tensors; a captioner's may be its trained part."""
    if not isinstance(config, CaptionerConfig):
        return match_published(own, state, egoinstructor_captioner.SAME_NAMES)
    frozen = {name for name in own if not is_trained(name)}
    missing = () if frozen & set(state) else tuple(n.replace(".", r"\.") for n in sorted(frozen))
    keys = egoinstructor_captioner.SAME_NAMES
    return match_published(own, state, keys, Tolerated(missing=missing))


def load_base(model: nn.Module, folder: Path) -> LoadReport:
    """Fill a captioner from its base model's folder: one weights file, or shards and their index.

    Raises:
        FileNotFoundError: the folder holds no weights; says which.
        CheckpointError: another model's.
    """
    if not isinstance(model, Captioner):
        raise CheckpointError(f"init.base={folder}: a {type(model).__name__} has no base model")
    state: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        state |= load_checkpoint(file).state
    try:
        is_bare = any(name.startswith("transformer.") for name in state)
        load = egoinstructor_captioner.load_decoder if is_bare else _load_whole
        return load(model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _load_whole(model: Captioner, state: Mapping[str, Tensor]) -> LoadReport:
    return egoinstructor_captioner.load_captioner(model, state)


def read_base_config(folder: Path, num_frames: int | None = 32) -> CaptionerConfig:
    """Sizes of a base model's folder; frames are set at load time, as published.

    Raises:
        FileNotFoundError: it has no config.json.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: download luodian/OTTER-MPT1B-RPJama-Init and name its folder"
        )
    described = json.loads(file.read_text(encoding="utf-8"))
    described.setdefault("max_num_frames", num_frames)
    return egoinstructor_captioner.captioner_config(described)


def _weight_files(folder: Path) -> Iterator[Path]:
    for name in _INDEX_NAMES:
        index = folder / name
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            for shard in sorted(set(shards.values())):
                yield folder / shard
            return
    for name in _WHOLE_NAMES:
        if (folder / name).is_file():
            yield folder / name
            return
    raise FileNotFoundError(
        f"{folder} holds no weights: expected one of {', '.join((*_INDEX_NAMES, *_WHOLE_NAMES))}"
    )


def _names(config: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return config.build().state_dict()
