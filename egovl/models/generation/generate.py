"""Write text: prompts in, ids and scores out.

Letters: B prompts, R rows being written, V vocabulary, L tokens.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from egovl.models.generation.beams import search_beams
from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.decoder import Decoder, DecoderState, Generated
from egovl.models.generation.warp import ban_tokens, entropy, warp_logits

State = TypeVar("State", bound=DecoderState)


@torch.no_grad()
def generate(
    decoder: Decoder[State],
    prompt: Tensor,
    config: GenerationConfig,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Generated:
    """Write `num_return_sequences` texts behind every prompt (LaViLa spec 2.9).

    A prompt is read once, however many texts follow it; rows that ended leave the batch.

    Args:
        decoder: bound to what it looks at, one row per prompt.
        prompt: ``[B, L]`` ids.
        config: strategy and limits.
        generator: of the draws; the strategies that draw nothing need none.
        mask: ``[B, L]`` False at padding, which stands on the left.
    """
    if config.searches:
        return search_beams(decoder, prompt, config, generator, mask)
    logits, state = decoder.start(prompt, mask)
    texts = len(prompt) * config.num_return_sequences
    rows = torch.arange(texts, device=prompt.device) // config.num_return_sequences
    if config.num_return_sequences > 1:
        logits, state = logits[rows], state.select(rows)
    page = _Page(prompt[rows], config)
    for step in range(config.max_new_tokens):
        tokens = pick_tokens(page.permitted(logits), config, generator)
        staying = page.write(tokens, logits)
        if staying is None or step + 1 == config.max_new_tokens:
            break
        if len(staying) < len(tokens):
            tokens, state = tokens[staying], state.select(staying)
        logits, state = decoder.advance(tokens, state)
    return page.finish()


def pick_tokens(
    logits_RV: Tensor, config: GenerationConfig, generator: torch.Generator | None
) -> Tensor:
    """The next token [R] of each row: the likeliest, or one drawn from the warped distribution."""
    if config.strategy == "greedy":
        return logits_RV.argmax(dim=-1)
    shares = warp_logits(logits_RV.float(), config).softmax(dim=-1)
    return torch.multinomial(shares, 1, generator=generator).squeeze(1)


class _Page:
    """Ids and scores of all texts; knows which rows are still being written."""

    def __init__(self, prompts: Tensor, config: GenerationConfig) -> None:
        self._config = config
        self._prompts = prompts
        size = (len(prompts), config.max_new_tokens)
        self._ids = torch.full(size, config.pad_id, dtype=torch.int64, device=prompts.device)
        self._alive = torch.arange(len(prompts), device=prompts.device)
        self._ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        self._steps = 0
        # of tokens up to the end token, or of the entropies there
        self._sum = torch.zeros(len(prompts), device=prompts.device)
        self._count = torch.zeros(len(prompts), device=prompts.device)

    def permitted(self, logits_RV: Tensor) -> Tensor:
        """Scores without banned tokens."""
        written = torch.cat([self._prompts, self._ids[:, : self._steps]], dim=1)[self._alive]
        return ban_tokens(logits_RV, written, self._config)

    def write(self, tokens_R: Tensor, logits_RV: Tensor) -> Tensor | None:
        """Add a token to each living row.

        Returns:
            which of these rows go on, or None where writing is over.
        """
        config = self._config
        self._tally(tokens_R, logits_RV)
        ends_R = tokens_R == config.eos_id
        self._ended[self._alive] |= ends_R
        if config.legacy_early_stop and bool(self._ended.all()):
            return None
        self._ids[self._alive, self._steps] = tokens_R
        self._steps += 1
        if config.legacy_run_on:
            return torch.arange(len(tokens_R), device=tokens_R.device)
        staying = (~ends_R).nonzero().squeeze(1)
        self._alive = self._alive[staying]
        return staying if len(staying) else None

    def _tally(self, tokens_R: Tensor, logits_RV: Tensor) -> None:
        log_p = logits_RV.float().log_softmax(dim=-1)
        gained = (
            entropy(log_p)
            if self._config.legacy_entropy_score
            else log_p.gather(1, tokens_R[:, None]).squeeze(1)
        )
        counts = ~self._ended[self._alive]
        self._sum[self._alive] += gained * counts
        self._count[self._alive] += counts

    def finish(self) -> Generated:
        """Ids up to the longest text, and scores."""
        config = self._config
        if config.legacy_entropy_score:
            scores = (self._sum / self._count).exp()
        else:
            scores = self._sum / self._count**config.length_penalty
        return Generated(self._ids[:, : self._steps], scores)
