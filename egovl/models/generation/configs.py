"""How text is written, as a frozen dataclass; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Strategy = Literal["greedy", "sample", "beam", "diverse_beam", "beam_sample"]

_BEAMS = ("beam", "diverse_beam", "beam_sample")


@dataclass(frozen=True)
class GenerationConfig:
    """Strategy, limits and the tokens that end or fill a text (LaViLa spec 2.9).

    Warpers act in the order temperature, top-k, top-p, typical, on the strategies that sample.
    """

    strategy: Strategy = "sample"
    """``greedy``; ``sample``; ``beam``; ``diverse_beam``: beams in groups that avoid each other's
    tokens; ``beam_sample``: beams drawn instead of taken from the top, one per returned text."""
    max_new_tokens: int = 76
    num_return_sequences: int = 1
    """Texts per prompt; of beams the best, so at most `num_beams`."""
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    """Smallest set of tokens whose probability reaches this."""
    typical_p: float | None = None
    """Smallest set of tokens nearest to the expected information whose probability reaches this."""
    num_beams: int = 3
    num_beam_groups: int = 1
    diversity_penalty: float = 0.7
    """Taken off a token's score for each time that an earlier group chose it in the same step."""
    length_penalty: float = 1.0
    """Scores are divided by length to this power."""
    stop_at_num_beams: bool = False
    """Beams end as soon as `num_beams` texts ended; off, when none can become better."""
    no_repeat_ngram_size: int = 0
    """No n-gram twice in prompt and text together; 0: no ban."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Ids of words that must not be written."""
    eos_id: int = 50256
    pad_id: int = 0
    legacy_run_on: bool = False
    """LaViLa: sampled rows go on after their end token, with arbitrary tokens."""
    legacy_early_stop: bool = False
    """LaViLa: stop when every row met its end, before that step's tokens are appended, so the row
    that ends last has no end token. Parity: family ``vclm_.*_generate``."""
    legacy_entropy_score: bool = False
    """LaViLa's "NLL": exp of the mean entropy of the next-token distribution up to the end."""
    legacy_beam_scores: bool = False
    """LaViLa: warpers act on log probability plus history, groups share finished texts and avoid
    nothing, ``beam_sample`` starts from equal beams."""

    def __post_init__(self) -> None:
        """Refuse contradictions, naming the field."""
        self._require(self.strategy in get_args(Strategy), "strategy", f"one of {Strategy}")
        for name in ("max_new_tokens", "num_return_sequences", "num_beams", "num_beam_groups"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.temperature > 0, "temperature", "above 0")
        self._require(self.top_k is None or self.top_k >= 1, "top_k", "at least 1")
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            self._require(value is None or 0 < value <= 1, name, "above 0 and at most 1")
        self._require(self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "0 or more")
        self._require(all(self.bad_words), "bad_words", "ids of words, none of them empty")
        if self.strategy == "diverse_beam":
            divides = self.num_beams % self.num_beam_groups == 0
            self._require(divides, "num_beam_groups", f"a divisor of num_beams={self.num_beams}")
        if self.strategy in ("beam", "diverse_beam"):
            few = self.num_return_sequences <= self.num_beams
            self._require(few, "num_return_sequences", f"at most num_beams={self.num_beams}")
        early = self.legacy_run_on or not self.legacy_early_stop
        self._require(early, "legacy_early_stop", "false unless legacy_run_on is true")

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")

    @property
    def searches(self) -> bool:
        """True where beams are kept."""
        return self.strategy in _BEAMS
