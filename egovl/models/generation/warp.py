"""What is done to next-token scores before a token is taken from them.

Letters: R rows, V vocabulary, L tokens so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egovl.models.generation.configs import GenerationConfig

NEVER = float("-inf")


def warp_logits(logits_RV: Tensor, config: GenerationConfig, keep: int = 1) -> Tensor:
    """Temperature, then top-k, top-p and typical, each if set; ruled out tokens get -inf.

    Args:
        logits_RV: scores up to a constant per row.
        config: the settings.
        keep: tokens that no warper may rule out; beam sampling needs 2. LaViLa spec 2.9; parity:
            family ``logits_warper``.
    """
    if config.temperature != 1.0:
        logits_RV = logits_RV / config.temperature
    if config.top_k is not None:
        logits_RV = _top_k(logits_RV, max(config.top_k, keep))
    if config.top_p is not None and config.top_p < 1.0:
        logits_RV = _top_p(logits_RV, config.top_p, keep)
    if config.typical_p is not None and config.typical_p < 1.0:
        logits_RV = _typical(logits_RV, config.typical_p, keep)
    return logits_RV


def _top_k(logits_RV: Tensor, k: int) -> Tensor:
    least = logits_RV.topk(min(k, logits_RV.shape[-1])).values[:, -1:]
    return logits_RV.masked_fill(logits_RV < least, NEVER)


def _top_p(logits_RV: Tensor, mass: float, keep: int) -> Tensor:
    # summed from the least likely up, so that ties and rounding fall as published
    ascending, order = logits_RV.sort(dim=-1)
    dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - mass
    dropped[:, -keep:] = False
    return logits_RV.masked_fill(dropped.scatter(-1, order, dropped), NEVER)


def _typical(logits_RV: Tensor, mass: float, keep: int) -> Tensor:
    log_p = logits_RV.log_softmax(dim=-1)
    strange = (-log_p - entropy(log_p)[:, None]).abs()
    ascending, order = strange.sort(dim=-1)
    before = log_p.exp().gather(-1, order).cumsum(dim=-1) < mass
    last = before.sum(dim=-1, keepdim=True).clamp(max=strange.shape[-1] - 1)
    dropped = ascending > ascending.gather(-1, last)
    dropped[:, :keep] = False
    return logits_RV.masked_fill(dropped.scatter(-1, order, dropped), NEVER)


def entropy(log_p_RV: Tensor) -> Tensor:
    """Entropy [R] of log probabilities, ruled out tokens counting nothing; nats."""
    return -(log_p_RV.exp() * log_p_RV.masked_fill(log_p_RV == NEVER, 0.0)).sum(dim=-1)


def ban_tokens(scores_RV: Tensor, written_RL: Tensor, config: GenerationConfig) -> Tensor:
    """Rule out tokens that would repeat an n-gram or end a bad word.

    Args:
        scores_RV: next-token scores.
        written_RL: prompt and text of each row so far.
        config: the settings; none of them set changes nothing.
    """
    if not config.no_repeat_ngram_size and not config.bad_words:
        return scores_RV
    banned = torch.zeros_like(scores_RV, dtype=torch.bool)
    for row, ids in enumerate(written_RL.tolist()):
        tokens = _repeats(ids, config.no_repeat_ngram_size) + _endings(ids, config.bad_words)
        banned[row, tokens] = True
    return scores_RV.masked_fill(banned, NEVER)


def _repeats(ids: list[int], size: int) -> list[int]:
    if size == 0 or len(ids) < size:
        return []
    tail = ids[len(ids) - size + 1 :]
    starts = range(len(ids) - size + 1)
    return [ids[i + size - 1] for i in starts if ids[i : i + size - 1] == tail]


def _endings(ids: list[int], words: tuple[tuple[int, ...], ...]) -> list[int]:
    return [w[-1] for w in words if len(w) == 1 or ids[-(len(w) - 1) :] == list(w[:-1])]
