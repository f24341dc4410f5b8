"""Clips that were read before, in the memory of one loading process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class KeptClips:
    """Tensors by what they were read from, the least recently used dropped first.

    Nobody may write into them.

    Args:
        capacity_mb: of all of them; 0 keeps none.
    """

    def __init__(self, capacity_mb: float) -> None:
        self._room = int(capacity_mb * 1e6)
        self._clips: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._size = 0

    def get(self, source: Hashable, read: Callable[[], Tensor]) -> Tensor:
        """The clip, read now if it is not here."""
        clip = self._clips.get(source)
        if clip is not None:
            self._clips.move_to_end(source)
            return clip
        clip = read()
        if clip.nbytes <= self._room:
            self._clips[source] = clip
            self._size += clip.nbytes
            while self._size > self._room:
                self._size -= self._clips.popitem(last=False)[1].nbytes
        return clip
