"""EgoNCE and the softmax loss it extends: contrast with a fixed temperature (EgoVLP spec, 4).

Shapes: B pairs scored here, N candidates (all pairs of all ranks), K classes of a tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.losses.pairs import PairLossOutput, Pairs, cosines, matching_accuracy
from egovl.losses.similarity import wide

if TYPE_CHECKING:
    from egovl.losses.configs import EgoNCEConfig, NormSoftmaxConfig


def norm_softmax(
    similarity: Tensor, temperature: float = 0.05, *, other: Tensor | None = None, offset: int = 0
) -> Tensor:
    """Sum of both directions' cross entropies of ``similarity / temperature``.

    Args:
        similarity: ``[B, N]``, the true pair of row i in column ``offset + i``.
        temperature: not learned.
        other: ``[B, N]`` of the other direction; the transpose if ``similarity`` is square.
        offset: column of row 0's true pair.
    """
    other = similarity.T if other is None else other
    target = torch.arange(offset, offset + len(similarity), device=similarity.device)
    both = [F.cross_entropy(wide(x) / temperature, target) for x in (similarity, other)]
    return both[0] + both[1]


def ego_nce(
    similarity: Tensor,
    positives: Tensor,
    temperature: float = 0.05,
    *,
    other: Tensor | None = None,
) -> Tensor:
    """Negative log of the softmax mass on all positives of a row, summed over both directions.

    Args:
        similarity: ``[B, N]``.
        positives: ``[B, N]`` bool, at least one in a row; the same for both directions.
        temperature: not learned.
        other: ``[B, N]`` of the other direction; the transpose if ``similarity`` is square.

    Raises:
        ValueError: if the shapes differ.
    """
    other = similarity.T if other is None else other
    if not similarity.shape == other.shape == positives.shape:
        raise ValueError(
            f"similarity {tuple(similarity.shape)}, other {tuple(other.shape)}, "
            f"positives {tuple(positives.shape)}: need [B, N] alike"
        )
    loss = similarity.new_zeros((), dtype=wide(similarity).dtype)
    for x in (similarity, other):
        logits = wide(x) / temperature
        # logarithms of sums, as a softmax may round to 0
        mass = logits.masked_fill(~positives, -torch.inf).logsumexp(dim=1)
        loss = loss + (logits.logsumexp(dim=1) - mass).mean()
    return loss


def tag_positives(
    noun: Tensor,
    verb: Tensor,
    *,
    use_noun: bool = True,
    use_verb: bool = True,
    rows: slice = slice(None),
) -> Tensor:
    """Which pairs count as one: those that share a tag of each kind in use, and the true ones.

    With neither kind in use verbs decide, as published. A sample without tags has itself alone.

    Args:
        noun: ``[N, K]`` 0/1 rows, or any that are not negative.
        verb: ``[N, K]`` the same for verbs.
        use_noun: ask for a common noun.
        use_verb: ask for a common verb.
        rows: the candidates that are scored here.

    Returns:
        ``[B, N]`` bool.
    """
    kinds = [noun] if use_noun else []
    if use_verb or not use_noun:
        kinds.append(verb)
    own = torch.eye(len(noun), dtype=torch.bool, device=noun.device)[rows]
    with torch.autocast(noun.device.type, enabled=False):
        shared = [(kind[rows].float() @ kind.float().T) > 0 for kind in kinds]
    return own | torch.stack(shared).all(dim=0)


class NormSoftmax:
    """`norm_softmax` of the cosines of a batch's pairs."""

    sides: tuple[str, ...] = ()

    def __init__(self, config: NormSoftmaxConfig) -> None:
        self.config = config

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss and accuracy."""
        by_text, by_video = cosines(pairs)
        loss = norm_softmax(by_text, self.config.temperature, other=by_video, offset=pairs.offset)
        return PairLossOutput(loss, {"accuracy": matching_accuracy(by_video, pairs.offset)})


class EgoNCE:
    """`ego_nce` of the cosines of a batch's pairs, with positives from verb and noun tags."""

    def __init__(self, config: EgoNCEConfig) -> None:
        self.config = config
        self.sides: tuple[str, ...] = (config.noun_tags, config.verb_tags)

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss, accuracy and the mean number of positives of a pair."""
        config = self.config
        by_text, by_video = cosines(pairs)
        positives = tag_positives(
            pairs.side(config.noun_tags),
            pairs.side(config.verb_tags),
            use_noun=config.noun,
            use_verb=config.verb,
            rows=slice(pairs.offset, pairs.offset + len(by_text)),
        )
        loss = ego_nce(by_text, positives, config.temperature, other=by_video)
        report = {
            "accuracy": matching_accuracy(by_video, pairs.offset),
            "positives": positives.sum(dim=1).float().mean(),
        }
        return PairLossOutput(loss, report)
