"""DistilBERT as EgoVLP's and LaViLa's checkpoints hold it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from egovl.convert.space_time import count_blocks, heads_of
from egovl.convert.unpickle import CheckpointError
from egovl.models.configs import HFTextConfig

POSITION_IDS = r"embeddings\.position_ids"
"""A constant buffer that older versions of transformers saved."""


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
