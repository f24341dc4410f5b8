"""Beam search: plain, in diverse groups, and sampled (LaViLa spec 2.9, Egoinstructor spec 6.1).

Letters: B prompts (or runs, where each returned text has a search of its own), G groups, K beams of
a group, R = B * G * K rows, V vocabulary, L tokens.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from egovl.models.generation.configs import GenerationConfig
from egovl.models.generation.decoder import Decoder, DecoderState, Generated
from egovl.models.generation.warp import ban_tokens, warp_logits

State = TypeVar("State", bound=DecoderState)

_HIDDEN = -1e9  # start score of all but one beam, which would otherwise all be the same


def search_beams(
    decoder: Decoder[State],
    prompt: Tensor,
    config: GenerationConfig,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Generated:
    """Write by beams; a prompt whose search is over leaves the batch.

    Each step keeps the 2K best continuations of a group. One that ends and ranks below K is
    dropped, one above is a finished text; the K best that go on are the new beams.
    """
    logits, state = decoder.start(prompt, mask)
    search = _Search(prompt, config)
    logits, state = logits[search.prompt_of_row], state.select(search.prompt_of_row)
    for step in range(config.max_new_tokens):
        tokens, rows = search.extend(logits, generator)
        if not len(tokens) or step + 1 == config.max_new_tokens:
            break
        logits, state = decoder.advance(tokens, state.select(rows))
    return search.finish()


class Candidate(NamedTuple):
    """A continuation: its score so far, the row it continues, its token."""

    score: float
    row: int
    token: int


@dataclass
class _Pool:
    """The best finished texts of a search, with their normalised scores."""

    size: int
    config: GenerationConfig
    texts: list[tuple[float, int, list[int]]] = field(default_factory=list)
    """A heap, the worst first; the number in the middle makes an older text the worse of equals."""
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def normalize(self, score: float, length: int) -> float:
        return score / length**self.config.length_penalty

    def add(self, ids: list[int], score: float, length: int) -> None:
        text = (self.normalize(score, length), next(self._order), ids)
        if len(self.texts) < self.size:
            heapq.heappush(self.texts, text)
        elif text[0] > self.texts[0][0]:
            heapq.heapreplace(self.texts, text)

    def is_done(self, best: float, length: int) -> bool:
        """True if no open beam can enter any more, judged by the best of them."""
        if len(self.texts) < self.size:
            return False
        return self.config.stop_at_num_beams or self.texts[0][0] >= self.normalize(best, length)


@dataclass
class _Run:
    """One search: its finished texts, by group, and whether a group is done."""

    pools: list[_Pool]
    done: list[bool]
    open: list[tuple[float, list[int]]] = field(default_factory=list)


class _Search:
    def __init__(self, prompt: Tensor, config: GenerationConfig) -> None:
        self.config = config
        self._device = prompt.device
        self._groups = config.num_beam_groups if config.strategy == "diverse_beam" else 1
        self._beams = config.num_beams // self._groups
        sampled = config.strategy == "beam_sample"
        # drawn beams: each returned text is the best of a search of its own
        per_prompt = config.num_return_sequences if sampled else 1
        # published draws are made for finished runs too
        self._draws_for_all = sampled and config.legacy_beam_scores
        self._keep = 1 if sampled else config.num_return_sequences
        prompt_of_run = torch.arange(len(prompt), device=prompt.device).repeat_interleave(
            per_prompt
        )
        self._per_run = self._groups * self._beams
        self.prompt_of_row = prompt_of_run.repeat_interleave(self._per_run)
        self._prompt = prompt
        self._written = prompt[self.prompt_of_row]  # [R, L] of living runs
        self._runs = [self._new_run() for _ in prompt_of_run]
        self._living = list(range(len(self._runs)))
        self._scores = self._start_scores(len(self._runs), sampled)
        self._steps = 0

    def _new_run(self) -> _Run:
        shared = self.config.legacy_beam_scores or self._groups == 1
        if shared:
            pools = [_Pool(self.config.num_beams, self.config)] * self._groups
        else:
            pools = [_Pool(self._beams, self.config) for _ in range(self._groups)]
        return _Run(pools, [False] * self._groups)

    def _start_scores(self, runs: int, sampled: bool) -> Tensor:
        scores = torch.full((runs, self._groups, self._beams), _HIDDEN, device=self._device)
        scores[:, :, 0] = 0.0
        if sampled and self.config.legacy_beam_scores:
            scores.zero_()
        return scores

    def extend(self, logits_RV: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """One step of every living run.

        Returns:
            the new token of each row that goes on, and the row it continues.
        """
        log_p_RV = ban_tokens(logits_RV.float().log_softmax(dim=-1), self._written, self.config)
        log_p = log_p_RV.view(len(self._living), self._groups, self._beams, -1)
        chosen: list[tuple[Tensor, Tensor, Tensor]] = []  # score, beam, token [runs, K] per group
        for group in range(self._groups):
            scores = log_p[:, group]
            if group and self.config.diversity_penalty and not self.config.legacy_beam_scores:
                scores = scores - self._penalty([c[2] for c in chosen], scores)
            found = self._best(scores, self._scores[:, group], generator)
            chosen.append(self._sort_out(group, *found))
        self._steps += 1
        return self._go_on(chosen)

    def _penalty(self, earlier: list[Tensor], scores_BKV: Tensor) -> Tensor:
        """[runs, 1, V]: the penalty for each time an earlier group chose a token in this step."""
        tokens = torch.cat(earlier, dim=1)
        times = torch.zeros(len(tokens), scores_BKV.shape[-1], device=self._device)
        times.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=times.dtype))
        return self.config.diversity_penalty * times[:, None]

    def _best(
        self, log_p_BKV: Tensor, history_BK: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score, beam and token [runs, 2K] of the best or drawn continuations, best first."""
        config, vocabulary = self.config, log_p_BKV.shape[-1]
        sampled = config.strategy == "beam_sample"
        keep = 2 if config.num_beams > 1 else 1
        if config.legacy_beam_scores:
            total = warp_logits((log_p_BKV + history_BK[..., None]).flatten(0, 1), config, keep)
            total = total.view(log_p_BKV.shape)
        else:
            warped = log_p_BKV
            if sampled:
                warped = warp_logits(log_p_BKV.flatten(0, 1), config, keep)
                warped = warped.log_softmax(dim=-1).view(log_p_BKV.shape)
            total = warped + history_BK[..., None]
        flat = total.flatten(1)
        wanted = min(2 * self._beams, flat.shape[1])
        if sampled:
            drawn = torch.multinomial(_shares(flat, wanted), wanted, generator=generator)
            score, order = flat.gather(1, drawn).sort(dim=1, descending=True)
            index = drawn.gather(1, order)
        else:
            score, index = flat.topk(wanted, dim=1)
        return score, index // vocabulary, index % vocabulary

    def _sort_out(
        self, group: int, score: Tensor, beam: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """File finished texts; the K continuations [runs, K] that go on."""
        kept: list[list[Candidate]] = []
        scores, beams, tokens = score.tolist(), beam.tolist(), token.tolist()
        for place, number in enumerate(self._living):
            run = self._runs[number]
            found = [
                Candidate(*c) for c in zip(scores[place], beams[place], tokens[place], strict=True)
            ]
            first = place * self._per_run + group * self._beams
            kept.append(self._sort_run(run, group, first, found))
        table = torch.tensor(kept, dtype=torch.float64, device=self._device)
        return table[..., 0].to(score.dtype), table[..., 1].long(), table[..., 2].long()

    def _sort_run(
        self, run: _Run, group: int, first: int, found: list[Candidate]
    ) -> list[Candidate]:
        if run.done[group]:
            return [Candidate(0.0, 0, self.config.pad_id)] * self._beams
        pool, going = run.pools[group], []
        length = self._steps + 1
        for rank, candidate in enumerate(found):
            if candidate.token != self.config.eos_id:
                going.append(candidate)
            elif rank < self._beams:
                pool.add(self._text(first + candidate.row), candidate.score, length)
            if len(going) == self._beams:
                break
        if pool.is_done(found[0].score, length + (1 if self.config.legacy_beam_scores else 0)):
            shared = run.pools[0] is run.pools[-1]
            run.done = [True] * self._groups if shared else _with(run.done, group)
        # fewer continuations than beams: the vocabulary is tiny, or nearly all of it is banned
        while len(going) < self._beams:
            going.append(going[-1]._replace(score=_HIDDEN) if going else found[0])
        return going

    def _text(self, row: int) -> list[int]:
        return self._written[row, self._prompt.shape[1] :].tolist()

    def _go_on(self, chosen: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        scores, beams, tokens = (torch.stack(parts, dim=1) for parts in zip(*chosen, strict=True))
        groups = torch.arange(self._groups, device=self._device)[None, :, None]
        runs = torch.arange(len(self._living), device=self._device)[:, None, None]
        rows = runs * self._per_run + groups * self._beams + beams
        staying = [p for p, n in enumerate(self._living) if not all(self._runs[n].done)]
        if staying and self._draws_for_all:
            staying = list(range(len(self._living)))
        index = torch.tensor(staying, dtype=torch.int64, device=self._device)
        self._living = [self._living[place] for place in staying]
        self._scores = scores[index]
        rows, tokens = rows[index].flatten(), tokens[index].flatten()
        self._written = torch.cat([self._written[rows], tokens[:, None]], dim=1)
        return tokens, rows

    def finish(self) -> Generated:
        """Open beams count as texts of their present length; the best of each run are returned."""
        # LaViLa's scorer counted the start token of open beams; of ended ones too, but not the end
        length = self._steps + (1 if self.config.legacy_beam_scores else 0)
        scores = self._scores.flatten(1).tolist()
        for place, number in enumerate(self._living):
            run = self._runs[number]
            for at in range(self._per_run):
                if not run.done[at // self._beams]:
                    pool = run.pools[at // self._beams]
                    text = self._text(place * self._per_run + at)
                    pool.add(text, scores[place][at], length)
        return self._collect()

    def _collect(self) -> Generated:
        config = self.config
        best: list[tuple[float, list[int]]] = []
        for run in self._runs:
            pools = {id(pool): pool for pool in run.pools}.values()
            texts = [text for pool in pools for text in pool.texts]
            texts.sort(key=lambda text: (text[0], text[1]), reverse=True)
            best += [(score, ids) for score, _, ids in texts[: self._keep]]
        longest = min(max(len(ids) for _, ids in best) + 1, config.max_new_tokens)
        table = torch.full((len(best), longest), config.pad_id, device=self._device)
        for row, (_, ids) in enumerate(best):
            whole = [*ids, config.eos_id][:longest]
            table[row, : len(whole)] = torch.tensor(whole, device=self._device)
        scores = torch.tensor([score for score, _ in best], device=self._device)
        return Generated(table, scores)


def _with(done: list[bool], group: int) -> list[bool]:
    return [is_done or at == group for at, is_done in enumerate(done)]


def _shares(scores: Tensor, wanted: int) -> Tensor:
    """Probabilities with at least `wanted` above 0, which drawing without replacement needs."""
    shares = scores.softmax(dim=-1)
    few = (shares > 0).sum(dim=-1, keepdim=True) < wanted
    tiny = torch.finfo(shares.dtype).tiny
    return torch.where(few, shares.clamp(min=tiny), shares)
