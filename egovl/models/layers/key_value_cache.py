"""Keys and values of what was read already, so that a new token is read alone.

Letters: R rows being written, L new tokens, S tokens in all, H heads, d width of a head, C clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egovl.models.layers.cross_attention import Memory, RowsOfClips

_FIRST_ROOM = 32


class LayerCache:
    """Of one layer: its own tokens, and its memory of the clips if it looks at them."""

    def __init__(self, cache: KeyValueCache) -> None:
        self._cache = cache
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.memory: Memory | None = None

    def append(self, k_RHLd: Tensor, v_RHLd: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep the new tokens' keys and values; those of all [R, H, S, d], and who sees whom."""
        start, end = self._cache.start, self._cache.length
        self._keys = _with_room(self._keys, k_RHLd, end)
        self._values = _with_room(self._values, v_RHLd, end)
        self._keys[:, :, start:end] = k_RHLd
        self._values[:, :, start:end] = v_RHLd
        return self._keys[:, :, :end], self._values[:, :, :end], self._cache.mask

    def select(self, cache: KeyValueCache, rows: Tensor, clips: Tensor | None) -> LayerCache:
        """The same layer of a selected cache."""
        layer = LayerCache(cache)
        layer._keys = None if self._keys is None else self._keys[rows]
        layer._values = None if self._values is None else self._values[rows]
        layer.memory = self.memory
        if self.memory is not None and clips is not None:
            layer.memory = self.memory.select(clips)
        return layer


class KeyValueCache:
    """`DecoderState` of a transformer: one `LayerCache` a layer.

    Args:
        depth: layers.
        rows: which clip each row looks at; None where nothing is looked at.
        visible_RL: False at the padding of prompts, on their left; None where there is none.
    """

    def __init__(
        self, depth: int, rows: RowsOfClips | None = None, visible_RL: Tensor | None = None
    ) -> None:
        self.start = 0
        """Tokens read before those being read."""
        self.length = 0
        """Tokens read, with those being read."""
        self.rows = rows
        self.mask: Tensor | None = None
        """[R or 1, 1, L, S] True where a new token may look; None where it may look anywhere."""
        self._visible_RS = visible_RL
        self.layers = [LayerCache(self) for _ in range(depth)]

    def begin(self, tokens_RL: Tensor) -> Tensor:
        """Announce tokens, before any layer reads them; their positions [R or 1, L]."""
        self.start, count = self.length, tokens_RL.shape[1]
        self.length += count
        place_L = torch.arange(self.start, self.length, device=tokens_RL.device)
        seen_LS = torch.arange(self.length, device=tokens_RL.device) <= place_L[:, None]
        if self._visible_RS is None:
            self.mask = None if count == 1 else seen_LS[None, None]
            return place_L[None]
        new = self.length - self._visible_RS.shape[1]
        self._visible_RS = torch.nn.functional.pad(self._visible_RS, (0, new), value=True)
        # padding sees itself, as a softmax over nothing is NaN
        own_LS = torch.arange(self.length, device=tokens_RL.device) == place_L[:, None]
        self.mask = ((seen_LS & self._visible_RS[:, None]) | own_LS)[:, None]
        positions_RS = self._visible_RS.long().cumsum(dim=1).sub(1).clamp(min=0)
        return positions_RS[:, self.start :]

    def select(self, rows_R: Tensor) -> KeyValueCache:
        """The state of these rows; a memory of clips shrinks once half of them have no row."""
        old, rows, clips = self.rows, None, None
        if old is not None:
            clip_R, number = old.clip_R[rows_R], old.num_clips
            used = clip_R.unique()
            if len(used) <= number // 2:
                clips, number = used, len(used)
                clip_R = torch.searchsorted(used, clip_R)
            rows = RowsOfClips(clip_R, number)
        visible = None if self._visible_RS is None else self._visible_RS[rows_R]
        chosen = KeyValueCache(0, rows, visible)
        chosen.start, chosen.length = self.start, self.length
        chosen.layers = [layer.select(chosen, rows_R, clips) for layer in self.layers]
        return chosen


def _with_room(held: Tensor | None, new_RHLd: Tensor, length: int) -> Tensor:
    """A buffer with room for `length` tokens that starts with what was held."""
    room = 0 if held is None else held.shape[2]
    if held is not None and room >= length:
        return held
    rows, heads, _, width = new_RHLd.shape
    grown = new_RHLd.new_zeros(rows, heads, max(length, 2 * room, _FIRST_ROOM), width)
    if held is not None:
        grown[:, :, :room] = held
    return grown
