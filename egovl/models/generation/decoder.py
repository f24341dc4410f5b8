"""What generation asks of a decoder, and what it gives back.

Letters: B sequences, L tokens of a prompt, V vocabulary, R rows that are still being written.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

State = TypeVar("State", bound="DecoderState")


class DecoderState(Protocol):
    """Cached keys and values of the rows being written, owned by one generation."""

    def select(self: State, rows_R: Tensor) -> State:
        """The state of these rows: any order, some left out, some several times."""
        ...


class Decoder(Protocol[State]):
    """A language model already bound to what it looks at (a clip's tokens, shots), row by row."""

    def start(self, tokens_BL: Tensor, mask_BL: Tensor | None = None) -> tuple[Tensor, State]:
        """Read prompts; logits [B, V] of what follows each, and the state behind it.

        Args:
            tokens_BL: ids of the prompts.
            mask_BL: False at padding, which stands on the left; None where there is none.
        """
        ...

    def advance(self, tokens_R: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of each row; logits [R, V]. The state given is used up."""
        ...


class Generated(NamedTuple):
    """What `generate` wrote, `num_return_sequences` rows a prompt, those of a prompt together."""

    ids: Tensor
    """[rows, length] without the prompt: up to the end token and with it, then `pad_id`."""
    scores: Tensor
    """[rows] sum of log probabilities over length ** length_penalty, the end token counted."""
