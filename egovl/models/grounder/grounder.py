"""GroundNLQ: spans of a long video that answer a text, found on its features (GroundNLQ spec 2).

Embed video and text, let the video look at the text, halve it level by level, score every point.

Letters: V videos, B queries, T feature steps or points of a level, E D feature widths, C width,
L tokens of a text, K classes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egovl.models.grounder.attention import NORM_EPS
from egovl.models.grounder.block import GroundingBlock
from egovl.models.grounder.configs import GrounderConfig
from egovl.models.grounder.convolution import TimeConv
from egovl.models.grounder.heads import ClassificationHead, RegressionHead, points_of
from egovl.models.grounder.neck import IdentityNeck, Levels, PyramidNeck


@dataclass(slots=True)
class PointScores:
    """What the heads say of the points of one level.

    Attributes:
        logits: [B, T, K].
        offsets: [B, T, 2] distances to both ends in strides, 0 or more.
        mask: [B, T] True where the video has this point.
        points: [T, 4] time, low and high end of the level's range, stride; in feature steps.
    """

    logits: Tensor
    offsets: Tensor
    mask: Tensor
    points: Tensor


class Embedding(nn.Module):
    """Convolutions with norm and ReLU that bring features to the model's width."""

    def __init__(self, in_width: int, width: int, kernel: int, layers: int, norm: bool) -> None:
        super().__init__()
        widths = [in_width, *[width] * (layers - 1)]
        self.convs = nn.ModuleList(TimeConv(w, width, kernel, bias=not norm) for w in widths)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, eps=NORM_EPS) if norm else nn.Identity() for _ in widths
        )

    def forward(self, x_BTE: Tensor, mask_BT: Tensor, *, leaks_padding: bool) -> Tensor:
        """Return [B, T, C]."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BTE = F.relu(norm(conv(x_BTE, mask_BT)))
            if not leaks_padding:
                x_BTE = x_BTE * mask_BT[..., None].to(x_BTE.dtype)
        return x_BTE


class Grounder(nn.Module):
    """Point scores of every level for pairs of a video and a text."""

    # besides forward, what computes with the parameters when called (sharded models must know)
    forward_methods = ("encode_levels",)

    def __init__(self, config: GrounderConfig) -> None:
        super().__init__()
        self.config = config
        layers, norm = config.layers, config.embed_norm
        self.video_embed = Embedding(
            config.video_dim, config.width, config.kernel, layers.embed, norm
        )
        self.text_embed = Embedding(config.text_dim, config.width, 1, layers.embed, norm)
        self.text_stem = nn.ModuleList(
            self._block(-1, 1, cross_modal=False, relative=False) for _ in range(layers.text)
        )
        self.video_stem = nn.ModuleList(
            self._block(config.window_of(0), 1, cross_modal=True) for _ in range(layers.video)
        )
        self.branch = nn.ModuleList(
            self._block(
                config.window_of(level),
                config.scale_factor,
                cross_modal=level <= layers.cross_branch,
            )
            for level in range(1, layers.levels)
        )
        self.neck = _build_neck(config)
        self.heads = nn.ModuleDict(
            {
                "classification": ClassificationHead(config),
                "regression": RegressionHead(config, len(config.strides)),
            }
        )
        self.positions: Tensor
        table = sinusoid_table(config.max_length, config.width) * config.width**-0.5
        self.register_buffer("positions", table, persistent=False)
        # of the loss (GroundNLQ spec 4); a buffer, so that it is saved and restored with the model
        self.normalizer: Tensor
        self.register_buffer("normalizer", torch.tensor([config.normalizer_init]))
        self.reset_parameters()

    def _block(
        self, window: int, stride: int, *, cross_modal: bool, relative: bool = True
    ) -> GroundingBlock:
        config = self.config
        return GroundingBlock(
            config.width,
            config.heads,
            window=window,
            stride=stride,
            cross_modal=cross_modal,
            relative_positions=config.relative_positions and relative,
            dropout=config.dropout,
            drop_path=config.drop_path,
        )

    def reset_parameters(self) -> None:
        """Set the biases of all linear layers to 0; the rest starts as its own class says."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs of one query in full size, on the present default device."""
        config = self.config
        video = torch.zeros(1, config.max_length, config.video_dim)
        text = torch.zeros(1, 16, config.text_dim)
        return video, torch.ones(video.shape[:2]).bool(), text, torch.ones(text.shape[:2]).bool()

    def forward(
        self,
        video_VTE: Tensor,
        video_mask_VT: Tensor,
        text_BLD: Tensor,
        text_mask_BL: Tensor,
        video_of_B: Tensor | None = None,
    ) -> list[PointScores]:
        """Score every point of every level, the finest first.

        Args:
            video_VTE: features; the length is padded here to what the pyramid needs.
            video_mask_VT: True where a feature stands, from the beginning.
            text_BLD: token features.
            text_mask_BL: True where a token stands; no text is empty.
            video_of_B: the video of each text, where several ask about one; None: row by row.

        Raises:
            ValueError: in training, a video longer than `max_length`.
        """
        _, levels = self.encode_levels(video_VTE, video_mask_VT, text_BLD, text_mask_BL, video_of_B)
        lengths = [mask.shape[1] for _, mask in levels]
        config = self.config
        points = points_of(lengths, config.strides, config.ranges, video_VTE.device)
        scores = []
        for level, (x, mask) in enumerate(levels):
            # what decides about boundaries is computed in float32, whatever the rest is
            with _in_float32(x.device):
                logits = self.heads["classification"](x.float(), mask)
                offsets = self.heads["regression"](x.float(), mask, level)
            scores.append(PointScores(logits, offsets, mask, points[level]))
        return scores

    def encode_levels(
        self,
        video_VTE: Tensor,
        video_mask_VT: Tensor,
        text_BLD: Tensor,
        text_mask_BL: Tensor,
        video_of_B: Tensor | None = None,
    ) -> tuple[Levels, Levels]:
        """Return the backbone's levels and those of the neck; arguments as `forward`."""
        config = self.config
        video_VTE, video_mask = self._padded(video_VTE, video_mask_VT.bool())
        leaks = config.legacy_video_padding
        x = self.video_embed(video_VTE, video_mask, leaks_padding=leaks)
        x = self._with_positions(x, video_mask)
        if video_of_B is not None:
            x, video_mask = x[video_of_B], video_mask[video_of_B]
        text = self._encode_text(text_BLD, text_mask_BL.bool())
        for block in self.video_stem:
            x, video_mask = block(x, video_mask, text, leaks_padding=leaks)
        levels = [(x, video_mask)]
        for block in self.branch:
            levels.append(block(*levels[-1], text, leaks_padding=leaks))
        return levels, self.neck(levels[config.start_level :])

    def _padded(self, video_VTE: Tensor, mask_VT: Tensor) -> tuple[Tensor, Tensor]:
        length, limit = video_VTE.shape[1], self.config.max_length
        if self.training and length > limit:
            raise ValueError(
                f"a video of {length} feature steps: the model has {limit}; raise max_length, or "
                "cut the video"
            )
        rest = self.config.padded_length(length) - length
        if rest > 0:
            video_VTE, mask_VT = F.pad(video_VTE, (0, 0, 0, rest)), F.pad(mask_VT, (0, rest))
        return video_VTE, mask_VT

    def _with_positions(self, x_VTC: Tensor, mask_VT: Tensor) -> Tensor:
        if not self.config.absolute_positions:
            return x_VTC
        length, table = x_VTC.shape[1], self.positions
        if length > len(table):
            stretched = F.interpolate(table.T[None], length, mode="linear", align_corners=False)
            table = stretched[0].T
        return x_VTC + table[:length].to(x_VTC.dtype) * mask_VT[..., None]

    def _encode_text(self, text_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        leaks = self.config.legacy_text_padding
        x = self.text_embed(text_BLD, mask_BL, leaks_padding=leaks)
        for block in self.text_stem:
            x, _ = block(x, mask_BL, leaks_padding=leaks)
        return x, mask_BL


def _in_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    if device.type == "meta":  # which knows no autocast
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def sinusoid_table(length: int, width: int) -> Tensor:
    """Positions [length, width]: sine on even channels, cosine on odd ones (GroundNLQ spec 2.2)."""
    place = torch.arange(length, dtype=torch.float64)[:, None]
    channel = torch.arange(width, dtype=torch.float64)
    angle = place / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def _build_neck(config: GrounderConfig) -> nn.Module:
    num_levels = len(config.strides)
    if config.neck == "identity":
        return IdentityNeck(num_levels, config.neck_dim, config.neck_norm)
    widths = [config.width] * num_levels
    return PyramidNeck(widths, config.neck_dim, config.scale_factor, config.neck_norm)
