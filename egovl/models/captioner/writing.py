"""The captioner as a decoder of `egovl.models.generation`: clips bound, words cached.

The published cache counts media tokens of the newest word alone, which switches the clips off; here
the count goes along with the cache (Egoinstructor spec 6.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from egovl.models.captioner.captioner import Captioner
from egovl.models.captioner.media_attention import MediaKeys
from egovl.models.captioner.mpt import KeyValues


@dataclass(frozen=True)
class WritingState:
    """What is kept of R rows while they are written."""

    words: list[KeyValues]
    visible: Tensor
    """[R, S], False at padding."""
    clip: Tensor
    """[R], media tokens so far."""
    source: Tensor
    """[R], which prompt's clips each row looks at."""

    def select(self, rows_R: Tensor) -> WritingState:
        """The state of these rows: any order, some left out, some several times."""
        return WritingState(
            [kept.select(rows_R) for kept in self.words],
            self.visible[rows_R],
            self.clip[rows_R],
            self.source[rows_R],
        )


class Writer:
    """Implements ``generation.Decoder`` for prompts over given clips.

    Args:
        model: in eval mode.
        media_BTKM: latents of the prompts' clips, from `Captioner.encode_clips`.
        media_id: the token that stands for a clip.
    """

    def __init__(self, model: Captioner, media_BTKM: Tensor, media_id: int) -> None:
        self._model = model
        self._media_id = media_id
        # of every layer, made once; rows share them
        self._keys: list[MediaKeys | None] = model.make_keys(media_BTKM)

    def start(
        self, tokens_BL: Tensor, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, WritingState]:
        """Read prompts; logits [B, V] of what follows each, and the state behind it.

        Raises:
            ValueError: padding on the right.
        """
        mask = torch.ones_like(tokens_BL, dtype=torch.bool) if mask_BL is None else mask_BL.bool()
        if not bool(mask[:, -1].all()):
            raise ValueError("prompts to write on are padded on the right; pad them on the left")
        clip_BL = (tokens_BL == self._media_id).long().cumsum(dim=1)
        hidden, words = self._model.read_words(tokens_BL, mask, clip_BL, self._keys)
        source = torch.arange(len(tokens_BL), device=tokens_BL.device)
        state = WritingState(words, mask, clip_BL[:, -1], source)
        return self._model.logits(hidden[:, -1]), state

    def advance(self, tokens_R: Tensor, state: WritingState) -> tuple[Tensor, WritingState]:
        """Read one more token of each row; logits [R, V]. The state given is used up."""
        visible = torch.cat([state.visible, torch.ones_like(state.visible[:, :1])], dim=1)
        clip_R = state.clip + (tokens_R == self._media_id)
        media = [None if keys is None else keys.seen_by(state.source) for keys in self._keys]
        hidden, words = self._model.read_words(
            tokens_R[:, None], visible, clip_R[:, None], media, state.words
        )
        logits = self._model.logits(hidden[:, -1])
        return logits, WritingState(words, visible, clip_R, state.source)


class UncachedWriter:
    """The same without a cache: every word reads the whole text again. The truth, and slow."""

    def __init__(self, model: Captioner, media_BTKM: Tensor, media_id: int) -> None:
        self._model = model
        self._media_BTKM = media_BTKM
        self._media_id = media_id

    def start(
        self, tokens_BL: Tensor, mask_BL: Tensor | None = None
    ) -> tuple[Tensor, UncachedState]:
        """As `Writer.start`."""
        mask = torch.ones_like(tokens_BL, dtype=torch.bool) if mask_BL is None else mask_BL.bool()
        state = UncachedState(tokens_BL, mask, self._media_BTKM)
        return self._logits(state), state

    def advance(self, tokens_R: Tensor, state: UncachedState) -> tuple[Tensor, UncachedState]:
        """As `Writer.advance`."""
        longer = UncachedState(
            torch.cat([state.tokens, tokens_R[:, None]], dim=1),
            torch.cat([state.visible, torch.ones_like(state.visible[:, :1])], dim=1),
            state.media,
        )
        return self._logits(longer), longer

    def _logits(self, state: UncachedState) -> Tensor:
        clip = (state.tokens == self._media_id).long().cumsum(dim=1)
        keys = self._model.make_keys(state.media)
        hidden, _ = self._model.read_words(state.tokens, state.visible, clip, keys)
        return self._model.logits(hidden[:, -1])


@dataclass(frozen=True)
class UncachedState:
    """The whole text [R, S], what is no padding, and the clips [R, T, K, M] of rows."""

    tokens: Tensor
    visible: Tensor
    media: Tensor

    def select(self, rows_R: Tensor) -> UncachedState:
        """As `WritingState.select`."""
        return UncachedState(self.tokens[rows_R], self.visible[rows_R], self.media[rows_R])
