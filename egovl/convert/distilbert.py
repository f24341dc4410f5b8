"""DistilBERT as EgoVLP's and LaViLa's checkpoints hold it, and as Hugging Face does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from egovl.convert.keys import KeyMap, Rename
from egovl.convert.load import LoadReport, Tolerated, load_published
from egovl.convert.space_time import count_blocks, heads_of
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.models.configs import HFTextConfig
from egovl.models.dual_encoder import DualEncoder

POSITION_IDS = r"embeddings\.position_ids"
"""A constant buffer that older versions of transformers saved."""


_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_MASKED_WORDS = r"vocab_(transform|layer_norm|projector)\..*"  # its pretraining's head


def load_text_tower(model: DualEncoder, folder: Path) -> LoadReport:
    """Fill a DistilBERT text tower from a Hugging Face folder.

    Raises:
        FileNotFoundError: the folder has no weights.
        CheckpointError: they are another model's, or the text tower is no DistilBERT.
    """
    file = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{folder} holds neither {' nor '.join(_WEIGHT_FILES)}: download "
            "distilbert-base-uncased there, or set init.text=null"
        )
    if not isinstance(model.config.text, HFTextConfig):
        raise CheckpointError(f"{folder}: the text tower is {model.config.text.name}")
    state = {
        re.sub(r"^distilbert\.", "", key): tensor
        for key, tensor in load_checkpoint(file).state.items()
    }
    tolerated = Tolerated(dropped=(POSITION_IDS, _MASKED_WORDS))
    return load_published(model.text, state, KeyMap([Rename("{rest}", "model.{rest}")]), tolerated)


def distilbert_config(state: Mapping[str, Tensor], prefix: str) -> HFTextConfig:
    """Read DistilBERT's sizes off tensors whose names start with `prefix`.

    Raises:
        CheckpointError: the tensors of DistilBERT are not there.
    """
    try:
        words = state[f"{prefix}embeddings.word_embeddings.weight"]
        positions = state[f"{prefix}embeddings.position_embeddings.weight"]
        hidden = state[f"{prefix}transformer.layer.0.ffn.lin1.weight"]
    except KeyError as error:
        raise CheckpointError(f"no DistilBERT: {error.args[0]} is not there") from error
    return HFTextConfig(
        vocab_size=words.shape[0],
        context_length=positions.shape[0],
        width=words.shape[1],
        heads=heads_of(words.shape[1]),
        depth=count_blocks(state, f"{prefix}transformer.layer."),
        hidden_width=hidden.shape[0],
    )
