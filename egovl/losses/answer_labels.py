"""Which tokens of a prompt are learned: the answers of all its items (Egoinstructor spec 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class PromptMarks:
    """Token ids that give a prompt its structure."""

    answer: int
    """Stands before an answer."""
    end: int
    """Ends an item."""
    media: int
    """Stands for a clip."""
    pad: int


def answer_labels(tokens_BL: Tensor, marks: PromptMarks) -> Tensor:
    """Labels ``[B, L]``: the tokens themselves where they are learned, else -100.

    Learned are the tokens of every answer, the end of every item, and what follows the last one
    (the end of the text). Labels stand where their tokens do; a loss shifts them.
    """
    place = torch.arange(tokens_BL.shape[1], device=tokens_BL.device).expand_as(tokens_BL)
    is_end = tokens_BL == marks.end
    last_end = torch.where(is_end, place, -1).amax(dim=1, keepdim=True)
    answer = _last_place(tokens_BL == marks.answer, place)
    # an item's end itself is learned: only what follows it is not
    end = _last_place(is_end & (place < last_end), place).roll(1, dims=1)
    end[:, 0] = -1
    hidden = torch.stack([tokens_BL == mark for mark in (marks.pad, marks.answer, marks.media)])
    kept = (answer > end) & ~hidden.any(dim=0) & (place > 0)
    return tokens_BL.masked_fill(~kept, IGNORED)


def _last_place(marked_BL: Tensor, place_BL: Tensor) -> Tensor:
    """Last marked place up to each one, itself included; -1 before the first."""
    return torch.where(marked_BL, place_BL, -1).cummax(dim=1).values
