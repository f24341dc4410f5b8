"""Labels of long videos: a video tower, an aggregator over its clips, linear heads.

Letters: B videos, K clips of each, C channels, T frames, H W pixels, P embedding width, Z steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.dual_encoder import build_projection
from egovl.models.hierarchy_configs import LongVideoConfig


class LongVideoModel(nn.Module):
    """Class logits of a video, or of the actions that follow it."""

    def __init__(self, config: LongVideoConfig) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.video = encoder.video.build()
        self.video_projection = build_projection(
            encoder.projection, self.video.width, encoder.embed_dim, relu_first=False
        )
        self.aggregator = config.aggregator.build(encoder.embed_dim)
        self.heads = nn.ModuleDict(
            {
                label: nn.Linear(encoder.embed_dim, config.num_steps * classes)
                for label, classes in config.heads.items()
            }
        )
        for part in self._frozen():
            part.requires_grad_(False)

    def forward(
        self,
        video_BKCTHW: Tensor | None = None,
        clips_BKP: Tensor | None = None,
        mask_BK: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return logits [B, classes] by label, or [B, Z, classes] with several steps.

        Args:
            video_BKCTHW: normalised pixels; or
            clips_BKP: the clips' embeddings, where they are known already.
            mask_BK: True at clips that are there; None for all.
        """
        if clips_BKP is None:
            assert video_BKCTHW is not None
            clips_BKP = self.encode_video(video_BKCTHW.flatten(0, 1)).unflatten(
                0, video_BKCTHW.shape[:2]
            )
        parent = self.aggregator(clips_BKP, mask_BK)
        steps = self.config.num_steps
        logits = {label: head(parent) for label, head in self.heads.items()}
        return logits if steps == 1 else {k: x.unflatten(1, (steps, -1)) for k, x in logits.items()}

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        """Return embeddings [B, P] of clips, not normalised."""
        embed = self.video_projection(self.video(video_BCTHW))
        return embed.to(torch.promote_types(embed.dtype, torch.float32))

    def train(self, mode: bool = True) -> LongVideoModel:
        """Set the mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def example_inputs(self) -> tuple[Tensor]:
        """Return one video in full size, on the present default device."""
        video = self.config.encoder.video
        count = getattr(self.config.aggregator, "num_clips", 1)
        return (torch.empty(1, count, 3, video.num_frames, video.image_size, video.image_size),)

    def _frozen(self) -> list[nn.Module]:
        return [self.video, self.video_projection] if self.config.frozen == "video" else []
