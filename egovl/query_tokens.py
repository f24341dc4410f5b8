"""Token features of queries into a store: a recipe's ``tokens:`` section (GroundNLQ spec 3.4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from egovl.data.datasets.nlq_rows import QueryRow, read_rows
from egovl.data.features import FeatureFacts, FeatureWriter, open_features
from egovl.data.query_text import canonical_question, pad_questions, question_tokens, word_rows
from egovl.data.text import CLIPTokenizer
from egovl.models.dual_encoder import DualEncoder
from egovl.models.text_transformer import TextTransformer
from egovl.recipe import Recipe, input_hashes
from egovl.run import initialize, newest_checkpoint
from egovl.shards import share_of
from egovl.work import rank_of

logger = logging.getLogger(__name__)

LAYER = "tokens behind the last norm"
LAYER_WITH_END = f"{LAYER}, and the end token"
_QUERIES_PER_BATCH = 64


def extract_tokens(recipe: Recipe) -> int:
    """Write the token features of this process's share of the queries; returns how many it made.

    Raises:
        ValueError: no section, no CLIP text tower, or a store made otherwise.
    """
    config = recipe.tokens
    if config is None:
        raise ValueError("the recipe has no tokens: section")
    model: nn.Module = recipe.model.build().eval()
    initialize(model, recipe)
    tower, tokenizer = text_tower_of(model), recipe.tokenizer.build()
    if not isinstance(tokenizer, CLIPTokenizer):
        raise ValueError(f"tokens: need tokenizer clip_bpe, not {recipe.tokenizer.name}")
    sha256 = input_hashes(recipe, newest_checkpoint).get("init.file")
    layer = LAYER_WITH_END if config.end_token else LAYER
    facts = FeatureFacts(width=tower.width, layer=layer, projection=False, weight_sha256=sha256)
    writer = FeatureWriter(cast(Path, config.out), facts)
    rank, world_size = rank_of()
    rows = [row for path in config.annotations for row in read_rows(path)]
    share = share_of(rows, config.shard * world_size + rank, config.shards * world_size)
    todo = [row for row in share if row.query_id not in writer]
    for start in range(0, len(todo), _QUERIES_PER_BATCH):
        part = todo[start : start + _QUERIES_PER_BATCH]
        words = [words_of(row, canonical=config.canonical) for row in part]
        found = encode_words(
            tower, tokenizer, words, legacy_zero=config.legacy_zero, end_token=config.end_token
        )
        for row, features in zip(part, found, strict=True):
            if not len(features):
                logger.warning("%s has no words (%r): left out", row.query_id, row.query)
                continue
            writer.write(row.query_id, features)
    logger.info("%s: token features of %d of %d queries", config.out, len(todo), len(share))
    return len(todo)


def text_tower_of(model: nn.Module) -> TextTransformer:
    """CLIP's text tower inside a dual encoder.

    Raises:
        ValueError: the model has none.
    """
    tower = cast(DualEncoder, model).text if isinstance(model, DualEncoder) else None
    if not isinstance(tower, TextTransformer):
        raise ValueError("token features come from a dual encoder with the text tower clip_text")
    return tower


def words_of(row: QueryRow, *, canonical: bool) -> str:
    """The text that is encoded: a question in the published form, a narration as it is."""
    return canonical_question(row.query) if canonical and row.query_type == "nlq" else row.query


@torch.no_grad()
def encode_words(
    tower: TextTransformer,
    tokenizer: CLIPTokenizer,
    texts: Sequence[str],
    *,
    legacy_zero: bool = False,
    end_token: bool = False,
) -> list[np.ndarray]:
    """Features of every text's words, ``[L, D]`` float32 each.

    Args:
        tower: of CLIP's kind.
        tokenizer: its own.
        texts: questions or narrations.
        legacy_zero: see `egovl.data.query_text.word_rows`.
        end_token: likewise.
    """
    limit = tower.config.context_length
    ids = [question_tokens(tokenizer, text) for text in texts]
    ids = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in ids]
    device = next(tower.parameters()).device
    hidden = tower.forward_tokens(pad_questions(ids, limit).to(device)).float().cpu().numpy()
    return [
        h[word_rows(row, legacy_zero=legacy_zero, end_token=end_token)]
        for h, row in zip(hidden, ids, strict=True)
    ]


def has_end_tokens(store: Path) -> bool:
    """Whether a store of ours keeps the end token's row of each text."""
    return store.exists() and open_features(store).facts.layer == LAYER_WITH_END
