"""Weights of our own runs and exports, into the same model or one that shares its tower."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from egovl.convert.heads import OWN_HEADS
from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import AGGREGATOR, PSEUDO_SCALE, LoadReport, Tolerated, load_published
from egovl.convert.unpickle import CheckpointError
from egovl.models.classifier import Classifier
from egovl.models.dual_encoder import DualEncoder
from egovl.models.grounder.grounder import Grounder
from egovl.models.long_video import LongVideoModel
from egovl.models.narrator import Narrator

SAME_NAMES = KeyMap([Rename("{rest}", "{rest}")])

_NOT_VIDEO = (AGGREGATOR, r"text\..*", r"(video|text)_projection\..*", r"(pseudo_)?logit_scale")


def load_dual_encoder(model: DualEncoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a dual encoder, strictly; a second temperature may be new, or be left out.

    So may a whole aggregator.
    """
    dropped = [] if model.pseudo_logit_scale is not None else [PSEUDO_SCALE]
    missing = [PSEUDO_SCALE]
    if not any(name.startswith("aggregator.") for name in state):
        missing.append(AGGREGATOR)
    if not any(name.startswith("aggregator.") for name in model.state_dict()):
        dropped.append(AGGREGATOR)
    return load_published(model, state, SAME_NAMES, Tolerated(tuple(missing), tuple(dropped)))


def load_long_video(model: LongVideoModel, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill tower, projection, aggregator and heads from a model that has them, or some of them.

    Heads and aggregator may be new; heads of other labels and a text side are left out.
    """
    own, others = set(model.state_dict()), []
    if not any(name.startswith("aggregator.") for name in own):
        others.append(AGGREGATOR)
    others += [re.escape(key) for key in state if key.startswith("heads.") and key not in own]
    dropped = (r"text\..*", r"text_projection\..*", r"(pseudo_)?logit_scale", *others)
    found = any(name.startswith("aggregator.") for name in state)
    missing = (OWN_HEADS,) if found else (OWN_HEADS, AGGREGATOR)
    return load_published(model, state, SAME_NAMES, Tolerated(missing, dropped))


def load_classifier(model: Classifier, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a classifier from one with the same heads, or its tower from a dual encoder.

    Heads of other labels are left out, and reported.
    """
    others = {key for key in state if key.startswith("heads.")} - set(model.state_dict())
    dropped = (*_NOT_VIDEO, *(key.replace(".", r"\.") for key in others))
    return load_published(model, state, SAME_NAMES, Tolerated((OWN_HEADS,), dropped))


def load_grounder(
    model: Grounder, state: Mapping[str, Tensor], keep_heads: bool = True
) -> LoadReport:
    """Fill a grounder, strictly; its heads may be left out. The loss's normaliser starts anew."""
    dropped = ("normalizer",) if keep_heads else ("normalizer", OWN_HEADS)
    return load_published(model, state, SAME_NAMES, Tolerated(dropped, dropped))


def load_same(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a model from one of its own kind, strictly."""
    return load_published(model, state, SAME_NAMES)


def load_narrator(model: Narrator, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a narrator, or its tower from a dual encoder or a classifier."""
    if any(key.startswith("decoder.") for key in state):
        return load_published(model, state, SAME_NAMES)
    mine = (r"(?!video\.).*",)
    dropped = (*_NOT_VIDEO, r"heads\..*")
    return load_published(model, state, SAME_NAMES, Tolerated(mine, dropped))


def read_weights_file(file: Path) -> tuple[str, dict[str, Tensor]]:
    """The yaml in the header of a file that `save_weights` wrote, and its tensors.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: another kind of file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {file}; `python -m egovl export` makes such a file")
    try:
        with safe_open(file, framework="pt") as stored:
            header = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file} is no safetensors file: {error}") from error
    if "config" not in header:
        raise CheckpointError(f"{file} has no config in its header: egovl did not write it")
    return header["config"], tensors
