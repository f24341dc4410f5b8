"""EgoExoNCE: contrast of clips of both views, groups and shared tags as positives.

Egoinstructor spec 4.2. Shapes: B pairs scored here, N candidates (all pairs of all ranks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egovl.losses.ego_nce import ego_nce, tag_positives
from egovl.losses.pairs import PairLossOutput, Pairs, matching_accuracy
from egovl.losses.similarity import wide

if TYPE_CHECKING:
    from egovl.losses.configs import EgoExoNCEConfig


def group_positives(
    count: int, group_size: int, rows: slice = slice(None), device: torch.device | None = None
) -> Tensor:
    """``[B, N]`` bool, True where two rows belong to one group of neighbours.

    Raises:
        ValueError: the rows are no whole number of groups.
    """
    if count % group_size:
        raise ValueError(f"{count} rows are no whole groups of {group_size} (1 + pair_num)")
    group = torch.arange(count // group_size, device=device).repeat_interleave(group_size)
    return group[rows, None] == group


def ego_exo_nce(
    video: Tensor, text: Tensor, scale: Tensor, positives: Tensor, *, offset: int = 0
) -> Tensor:
    """Negative log of the softmax mass on all positives, both directions summed.

    Args:
        video: ``[N, D]`` of length 1.
        text: ``[N, D]`` of length 1.
        scale: inverse temperature.
        positives: ``[B, N]`` bool.
        offset: first row that is scored here.
    """
    rows = slice(offset, offset + len(positives))
    video, text = wide(video), wide(text)
    with torch.autocast(video.device.type, enabled=False):
        by_video = scale * (video[rows] @ text.T)
        by_text = scale * (text[rows] @ video.T)
    return ego_nce(by_video, positives, 1.0, other=by_text)


class EgoExoNCE:
    """`ego_exo_nce` of a batch whose groups are a clip and its ``pair_num`` partners."""

    def __init__(self, config: EgoExoNCEConfig) -> None:
        self.config = config
        self.sides: tuple[str, ...] = (config.noun_tags, config.verb_tags)

    def __call__(self, pairs: Pairs) -> PairLossOutput:
        """Loss, accuracy and the mean number of positives of a row."""
        video = pairs.video if pairs.all_video is None else pairs.all_video
        text = pairs.text if pairs.all_text is None else pairs.all_text
        rows = slice(pairs.offset, pairs.offset + len(pairs.video))
        positives = tag_positives(
            pairs.side(self.config.noun_tags), pairs.side(self.config.verb_tags), rows=rows
        ) | group_positives(len(video), 1 + self.config.pair_num, rows, video.device)
        loss = ego_exo_nce(video, text, pairs.scale, positives, offset=pairs.offset)
        scores = video[rows].detach() @ text.detach().T
        report = {
            "accuracy": matching_accuracy(scores, pairs.offset),
            "positives": positives.sum(dim=1).float().mean(),
        }
        return PairLossOutput(loss, report)
