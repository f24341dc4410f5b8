"""Which points should answer for a span, and what their answers cost (GroundNLQ spec 4).

Letters: B queries, P points of all levels, N spans of a query, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from egovl.losses.grounding_configs import GroundingLossConfig

NORMALIZER_MOMENTUM = 0.9
_EPS = 1e-8
_TIE = 1e-3  # spans whose lengths differ by less lend a point all their classes


@dataclass(slots=True)
class PointTargets:
    """What every point should say.

    Attributes:
        classes: [B, P, K] float64, 1 where a span of that class is the point's.
        offsets: [B, P, 2] float64, distances to its ends in strides; without meaning where no class
            is 1.
    """

    classes: Tensor
    offsets: Tensor

    @property
    def is_positive(self) -> Tensor:
        """[B, P] True where the point answers for a span."""
        return self.classes.sum(dim=-1) > 0


def assign_points(
    points_P4: Tensor,
    spans_BN2: Tensor,
    counts_B: Tensor,
    classes_BNK: Tensor,
    config: GroundingLossConfig,
) -> PointTargets:
    """Give each point the shortest span that it is inside of and that its level answers for.

    Computed in float64: boundaries decide.

    Args:
        points_P4: time, low and high end of the level's range, stride; in feature steps.
        spans_BN2: start and end in feature steps; rows beyond a query's count do not matter.
        counts_B: spans of each query.
        classes_BNK: 0/1 classes of each span.
        config: the rule of being inside.
    """
    time_P, low_P, high_P, stride_P = points_P4.double().unbind(dim=1)
    num_spans = spans_BN2.shape[1]
    if num_spans == 0:
        batch, places = spans_BN2.shape[0], len(points_P4)
        return PointTargets(
            points_P4.new_zeros(batch, places, classes_BNK.shape[-1], dtype=torch.float64),
            points_P4.new_zeros(batch, places, 2, dtype=torch.float64),
        )
    start_BPN, end_BPN = spans_BN2.double()[:, None].unbind(dim=-1)
    time_PN = time_P[:, None]
    left, right = time_PN - start_BPN, end_BPN - time_PN
    if config.center_sample == "radius":
        center, reach = (start_BPN + end_BPN) / 2, (stride_P * config.radius)[:, None]
        from_start = time_PN - torch.maximum(center - reach, start_BPN)
        to_end = torch.minimum(center + reach, end_BPN) - time_PN
        inside = torch.minimum(from_start, to_end) > 0
    else:
        inside = torch.minimum(left, right) > 0
    furthest = torch.maximum(left, right)
    answers = inside & (furthest >= low_P[:, None]) & (furthest <= high_P[:, None])
    there_BN = torch.arange(num_spans, device=counts_B.device) < counts_B[:, None]
    length = (end_BPN - start_BPN).expand_as(left)
    length = length.masked_fill(~(answers & there_BN[:, None]), float("inf"))
    # the first of equal ones, which `min` does not promise
    chosen_BP1 = length.argmin(dim=-1, keepdim=True)
    shortest = length.gather(-1, chosen_BP1)
    shared = (length <= shortest + _TIE) & length.isfinite()
    classes = torch.einsum("bpn,bnk->bpk", shared.double(), classes_BNK.double()).clamp(0, 1)
    sides = torch.cat([left.gather(-1, chosen_BP1), right.gather(-1, chosen_BP1)], dim=-1)
    has_span = (counts_B > 0)[:, None, None]
    return PointTargets(classes, torch.where(has_span, sides / stride_P[:, None], 0.0))


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of every element, with soft targets (GroundNLQ spec 4).

    Args:
        logits: any shape.
        targets: likewise, 0 .. 1.
        alpha: weight of targets of 1; below 0: no weighting.
        gamma: how strongly easy elements count less.
    """
    logits, targets = logits.float(), targets.float()
    score = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = score * targets + (1 - score) * (1 - targets)
    loss = entropy * (1 - right) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def distance_iou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU plus the squared distance of the centres over that of the hull (DIoU).

    Args:
        offsets: [..., 2] distances from a common point to both ends, 0 or more.
        targets: likewise.
    """
    loss, hull = _iou_loss(offsets.float(), targets.float())
    left, right = offsets.float().unbind(-1)
    true_left, true_right = targets.float().unbind(-1)
    apart = 0.5 * (right - left - true_right + true_left)
    return loss + (apart / hull.clamp(min=_EPS)) ** 2


def iou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU of spans that share a point, and so 1 - GIoU; arguments as `distance_iou_loss`."""
    return _iou_loss(offsets.float(), targets.float())[0]


def _iou_loss(offsets: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    left, right = offsets.unbind(-1)
    true_left, true_right = targets.unbind(-1)
    inter = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    union = (left + right) + (true_left + true_right) - inter
    hull = torch.maximum(left, true_left) + torch.maximum(right, true_right)
    return 1 - inter / union.clamp(min=_EPS), hull


@dataclass(slots=True)
class GroundingLosses:
    """The loss and its parts, each divided by the normaliser."""

    total: Tensor
    classification: Tensor
    regression: Tensor


def grounding_loss(
    logits_BPK: Tensor,
    offsets_BP2: Tensor,
    valid_BP: Tensor,
    targets: PointTargets,
    normalizer: Tensor,
    config: GroundingLossConfig,
) -> GroundingLosses:
    """Focal loss of all points of the videos and overlap loss of those that answer for a span.

    Args:
        logits_BPK: of all levels.
        offsets_BP2: likewise, in strides.
        valid_BP: True where the video has the point.
        targets: of every point.
        normalizer: see `advance_normalizer`.
        config: smoothing and weights.
    """
    positive_BP = targets.is_positive & valid_BP
    classes = targets.classes.float()
    smoothing, num_classes = config.label_smoothing, classes.shape[-1]
    smooth = classes * (1 - smoothing) + smoothing / (num_classes + 1)
    focal = sigmoid_focal_loss(logits_BPK, smooth)
    classification = (focal * valid_BP[..., None]).sum() / normalizer
    # where no span is the point's, any target serves: it is not counted
    reached = torch.where(positive_BP[..., None], targets.offsets.float(), 1.0)
    overlap = distance_iou_loss(offsets_BP2, reached)
    regression = torch.where(positive_BP, overlap, 0.0).sum() / normalizer
    weight = config.regression_weight
    if weight <= 0:
        balance = classification.detach() / regression.detach().clamp(min=0.01)
        return GroundingLosses(classification + balance * regression, classification, regression)
    return GroundingLosses(classification + weight * regression, classification, regression)


def advance_normalizer(normalizer: Tensor, num_positives: Tensor) -> Tensor:
    """The running number of positives after one more batch; at least 1 counts."""
    latest = num_positives.to(normalizer.dtype).clamp(min=1)
    return NORMALIZER_MOMENTUM * normalizer + (1 - NORMALIZER_MOMENTUM) * latest
