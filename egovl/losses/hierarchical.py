"""Losses between videos, summaries and what they are aggregated from (HierVL spec 4).

Shapes: N videos of all ranks, D width, P children of a video that are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egovl.losses.pairs import PairLoss, Pairs
from egovl.losses.similarity import cosine_matrix, wide

if TYPE_CHECKING:
    from egovl.losses.configs import ChildNCEConfig

TERMS: Mapping[str, tuple[str, str]] = {
    "text_summary": ("text_parent", "summary"),
    "video_summary": ("video_parent", "summary"),
    "text_video": ("text_parent", "video_parent"),
}
"""Name of a term of the parents' loss -> its rows, its columns."""

CHILD_TERMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "intra": (("video_parent", "clips"), ("text_parent", "narrations")),
    "inter": (("video_parent", "narrations"), ("text_parent", "clips")),
}
"""Parents against children, of their own kind or of the other."""


@dataclass(frozen=True)
class Family:
    """Gathered embeddings of N videos; rows follow each other in all of them."""

    parents: Mapping[str, Tensor]
    """``summary``, ``video_parent``, ``text_parent``, as the terms need them: each ``[N, D]``."""
    children: Mapping[str, Tensor]
    """``clips``, ``narrations``: each ``[N, P, D]``."""
    scale: Tensor
    """The model's inverse temperature, for a loss that learns it."""
    sides: Mapping[str, Tensor]
    """``[N, ...]`` of the summaries, by the names that the loss asks for."""


def mil_nce(similarity: Tensor, num_parents: int, temperature: float = 0.05) -> Tensor:
    """Negative log of the softmax mass on all of one's own, summed over both directions (MIL-NCE).

    Args:
        similarity: ``[R, C]``; in both directions ``num_parents`` equal blocks in a row, block i of
            the rows belongs to block i of the columns.
        num_parents: number of blocks.
        temperature: not learned.

    Raises:
        ValueError: rows or columns that do not divide.
    """
    rows, columns = similarity.shape
    if rows % num_parents or columns % num_parents:
        raise ValueError(
            f"{rows} rows and {columns} columns cannot be shared by {num_parents} parents"
        )
    row_of = torch.arange(rows, device=similarity.device) // (rows // num_parents)
    column_of = torch.arange(columns, device=similarity.device) // (columns // num_parents)
    own = row_of[:, None] == column_of
    loss = similarity.new_zeros((), dtype=wide(similarity).dtype)
    for scores, mine in ((similarity, own), (similarity.T, own.T)):
        logits = wide(scores) / temperature
        # logarithms of sums, as a softmax may round to 0
        mass = logits.masked_fill(~mine, -torch.inf).logsumexp(dim=1)
        loss = loss + (logits.logsumexp(dim=1) - mass).mean()
    return loss


def parent_loss(family: Family, terms: tuple[str, ...], loss: PairLoss) -> dict[str, Tensor]:
    """Each term by its name: the pair loss of its two kinds of parents, one row a video."""
    found: dict[str, Tensor] = {}
    for term in terms:
        rows, columns = (family.parents[name] for name in TERMS[term])
        # a pair loss scores texts by videos: rows first
        pairs = Pairs(video=columns, text=rows, scale=family.scale, sides=family.sides)
        found[term] = loss(pairs).loss
    return found


def child_loss(family: Family, config: ChildNCEConfig) -> dict[str, Tensor]:
    """MIL-NCE of each kind that the config asks for, between parents and their children."""
    found: dict[str, Tensor] = {}
    for kind, pairs in CHILD_TERMS.items():
        if not getattr(config, kind):
            continue
        parts = []
        for parent, child in pairs:
            parents = family.parents[parent]
            similarity = cosine_matrix(parents, family.children[child].flatten(0, 1))
            parts.append(mil_nce(similarity, len(parents), config.temperature))
        found[f"mil_nce_{kind}"] = torch.stack(parts).sum()
    return found


def draw_children(count: int, wanted: int, sample: Callable[[range, int], list[int]]) -> list[int]:
    """Which children are compared: ``wanted`` different places among ``count``.

    Args:
        count: clips or narrations of a video.
        wanted: as many are drawn, all of them if there are no more.
        sample: ``random.sample``, or the method of a seeded ``Random``.
    """
    return sample(range(count), min(wanted, count))
