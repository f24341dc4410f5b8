"""Classification heads on a video tower: LaViLa's finetuning, EgoVLP's state change and keyframe.

Letters: B batch, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.configs import ClassifierConfig


class Classifier(nn.Module):
    """A video tower and one linear head for each label."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.video = config.video.build()
        width = self.video.width
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in config.heads.items()})
        if config.head_std is not None:
            for head in self.heads.values():
                assert isinstance(head, nn.Linear)
                nn.init.normal_(head.weight, std=config.head_std)
                nn.init.zeros_(head.bias)

    def forward(self, video_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return logits [B, classes] by label name; in training each head drops features alone."""
        feature = self.video(video_BCTHW)
        rate = self.config.dropout
        return {
            name: head(F.dropout(feature, rate, self.training)) for name, head in self.heads.items()
        }

    def example_inputs(self) -> tuple[Tensor]:
        """Return the input of one clip in full size, on the present default device."""
        video = self.config.video
        return (torch.empty(1, 3, video.num_frames, video.image_size, video.image_size),)
