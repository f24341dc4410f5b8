"""From the clips of a video to one embedding of it (HierVL spec 2.2).

Letters: B videos, K clips of each, D width, S = 1 + K tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egovl.models.configs import CLIP_NORM_EPS
from egovl.models.hierarchy_configs import SelfAttentionConfig
from egovl.models.layers.attention import SelfAttention
from egovl.models.layers.drop_path import DropPath
from egovl.models.layers.mlp import Mlp

_INIT_STD = 0.02


class AverageAggregator(nn.Module):
    """The mean of a video's embeddings."""

    def forward(self, clips_BKD: Tensor, mask_BK: Tensor | None = None) -> Tensor:
        """Return [B, D]; with a mask, the mean over its True clips."""
        if mask_BK is None:
            return clips_BKD.mean(dim=1)
        _check_mask(clips_BKD, mask_BK)
        weight = mask_BK.to(clips_BKD.dtype) / mask_BK.sum(dim=1, keepdim=True)
        return torch.einsum("bkd,bk->bd", clips_BKD, weight)


class AggregatorBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)); no bias in the projection to queries and keys."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.attn = SelfAttention(width, heads, qkv_bias=False)
        self.norm_mlp = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.mlp = Mlp(width, 4 * width, "gelu")
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BSD: Tensor, visible_BS: Tensor | None, cls_only: bool) -> Tensor:
        """Return all tokens [B, S, D], or CLS alone [B, 1, D] without computing the others."""
        normed = self.norm_attn(x_BSD)
        if cls_only:
            x_BSD = x_BSD[:, :1]
            attended = self.attn.forward_at(normed, normed[:, :1], visible_BS)
        else:
            attended = self.attn(normed, visible_BS=visible_BS)
        y_BSD = x_BSD + self.drop_path(attended)
        return y_BSD + self.drop_path(self.mlp(self.norm_mlp(y_BSD)))


class SelfAttentionAggregator(nn.Module):
    """Positions on the clips, a CLS token without one before them, pre-norm blocks, CLS out.

    One instance serves clips and narrations. The released class holds more, which no input reaches:
    `egovl.convert.hiervl` names those tensors.
    """

    def __init__(self, config: SelfAttentionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_clips, width))
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            AggregatorBlock(width, config.heads, config.drop_path * i / last)
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=CLIP_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the published initial values."""
        for token in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=_INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clips_BKD: Tensor, mask_BK: Tensor | None = None) -> Tensor:
        """Return the videos' embeddings [B, D].

        Args:
            clips_BKD: clips in the order of time.
            mask_BK: True at clips that are there, which stand first; None for all of them.

        Raises:
            ValueError: a number of clips that the config does not take, a mask that hides a whole
                video or has a hole.
        """
        if mask_BK is not None:
            _check_mask(clips_BKD, mask_BK)
        x_BKD = clips_BKD + self._positions(clips_BKD.shape[1], mask_BK)
        cls = self.cls_token.expand(len(x_BKD), -1, -1)
        x_BSD = torch.cat([cls.to(x_BKD.dtype), x_BKD], dim=1)
        visible = None
        if mask_BK is not None:
            visible = torch.cat([torch.ones_like(mask_BK[:, :1]), mask_BK], dim=1).bool()
        for number, block in enumerate(self.blocks):
            x_BSD = block(x_BSD, visible, number == len(self.blocks) - 1)
        return self.norm(x_BSD.squeeze(1))

    def _positions(self, count: int, mask_BK: Tensor | None) -> Tensor:
        """[1, K, D], or [B, K, D] where every video has its own number of clips."""
        rows, rule = self.config.num_clips, self.config.clip_count
        if rule == "any":
            lengths = torch.full((1,), count, device=self.pos_embed.device)
            lengths = lengths if mask_BK is None else mask_BK.sum(dim=1)
            return stretch_positions(self.pos_embed[0], lengths, count)
        if count != rows and not (rule == "legacy_broadcast" and count == 1):
            raise ValueError(
                f"{count} clips a video, the aggregator takes {rows}: choose as many clips, or set "
                "model.aggregator.clip_count=any"
            )
        return self.pos_embed


def stretch_positions(table_RD: Tensor, lengths_B: Tensor, count: int) -> Tensor:
    """Positions [B, K, D] of videos with `lengths_B` clips: first and last row at their ends.

    Between the ends linear in time; a single clip has the middle. As many clips as rows: the table.

    Args:
        table_RD: the learned rows.
        lengths_B: clips of each video, at most `count`.
        count: K; what lies behind a video's length repeats the last row.
    """
    last = len(table_RD) - 1
    ends = (lengths_B - 1).clamp(min=1)[:, None]
    places = torch.arange(count, device=table_RD.device)[None].expand(len(lengths_B), -1)
    at = (places * last / ends).clamp(max=last)
    at = torch.where(lengths_B[:, None] == 1, torch.full_like(at, last / 2), at)
    low = at.floor().long().clamp(max=max(last - 1, 0))
    share = (at - low).unsqueeze(-1).to(table_RD.dtype)
    high = (low + 1).clamp(max=last)
    return torch.lerp(table_RD[low], table_RD[high], share)


def _check_mask(clips_BKD: Tensor, mask_BK: Tensor) -> None:
    if mask_BK.shape != clips_BKD.shape[:2]:
        raise ValueError(f"mask {list(mask_BK.shape)}, clips {list(clips_BKD.shape)}: need [B, K]")
    if clips_BKD.device.type != "cpu":
        return  # looking would make the host wait for the device
    mask = mask_BK.bool()
    if not mask[:, 0].all():
        raise ValueError("a video of which no clip is there, or whose first one is hidden")
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("a mask with a hole: the clips that are there stand first")
