"""HierVL: a dual encoder of clips and narrations, and of videos and summaries above them.

Letters: B videos, K clips or narrations of each, C channels, T frames, H W pixels, L tokens,
P embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from egovl.models.dual_encoder import DualEncoder, DualEncoderOutput
from egovl.models.hierarchy_configs import HierarchicalEncoderConfig


@dataclass(slots=True)
class ParentInputs:
    """What videos and their summaries are made of; what is None is not encoded."""

    video: Tensor | None = None
    """[B, K, C, T, H, W] normalised pixels."""
    clips: Tensor | None = None
    """[B, K, P] embeddings of the clips, where they are known already."""
    clip_mask: Tensor | None = None
    """[B, K] True at clips that are there."""
    summary: Tensor | None = None
    """[B, L] token ids."""
    summary_mask: Tensor | None = None
    narrations: Tensor | None = None
    """[B, K, L] token ids."""
    narration_mask: Tensor | None = None

    @property
    def num_clips(self) -> int:
        """K, where there are clips."""
        clips = self.video if self.clips is None else self.clips
        return 0 if clips is None else clips.shape[1]


@dataclass(slots=True)
class ParentOutput:
    """Embeddings of videos and summaries, and of what they are aggregated from."""

    logit_scale: Tensor
    summary: Tensor | None = None
    """[B, P] of the text tower, not aggregated."""
    video_parent: Tensor | None = None
    """[B, P]."""
    text_parent: Tensor | None = None
    """[B, P], aggregated from the narrations."""
    clips: Tensor | None = None
    """[B, K, P]."""
    narrations: Tensor | None = None
    """[B, K, P]."""


class HierarchicalEncoder(DualEncoder):
    """A dual encoder whose aggregator turns clips into videos and narrations into summaries."""

    forward_methods = (*DualEncoder.forward_methods, "encode_parents", "aggregate")

    def __init__(self, config: HierarchicalEncoderConfig) -> None:
        super().__init__(config.encoder)
        self.hierarchy = config
        self.aggregator = config.aggregator.build(config.encoder.embed_dim)
        for part in self._frozen():
            part.requires_grad_(False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        video_BCTHW: Tensor | None = None,
        tokens_BL: Tensor | None = None,
        token_mask_BL: Tensor | None = None,
        *,
        parents: ParentInputs | None = None,
    ) -> DualEncoderOutput | ParentOutput:
        """Embed clips and narrations as `DualEncoder` does, or videos and summaries."""
        if parents is not None:
            return self.encode_parents(parents)
        assert video_BCTHW is not None and tokens_BL is not None
        return super().forward(video_BCTHW, tokens_BL, token_mask_BL)

    def encode_parents(self, inputs: ParentInputs) -> ParentOutput:
        """Embed what is there of videos, summaries and narrations."""
        output = ParentOutput(self.logit_scale[0].exp())
        if inputs.summary is not None:
            output.summary = self.encode_text(inputs.summary, inputs.summary_mask)
        output.clips = inputs.clips
        if inputs.video is not None:
            flat = self.encode_video(inputs.video.flatten(0, 1))
            output.clips = flat.unflatten(0, inputs.video.shape[:2])
        if output.clips is not None:
            output.video_parent = self.aggregate(output.clips, inputs.clip_mask)
        if inputs.narrations is not None:
            mask = inputs.narration_mask
            flat = self.encode_text(
                inputs.narrations.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
            )
            output.narrations = flat.unflatten(0, inputs.narrations.shape[:2])
            output.text_parent = self.aggregate(output.narrations)
        return output

    def aggregate(self, children_BKP: Tensor, mask_BK: Tensor | None = None) -> Tensor:
        """Return the parents' embeddings [B, P] of clips or narrations in their order."""
        return self._finish(self.aggregator(children_BKP, mask_BK))

    def train(self, mode: bool = True) -> HierarchicalEncoder:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        frozen = self.hierarchy.frozen
        parts = [] if frozen == "none" else [self.video, self.video_projection]
        return parts + ([self.text, self.text_projection] if frozen == "towers" else [])
