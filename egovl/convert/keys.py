"""Name maps between a published state dict and ours, as data that reads in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layout = Literal[
    "same", "transpose", "leading_ones", "scalar", "trailing_one", "channel", "leading_two"
]

_Rule = tuple[re.Pattern[str], str, Layout]

_FIELDS = {"{i}": r"(?P<i>\d+)", "{leaf}": r"(?P<leaf>weight|bias)", "{rest}": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class Rename:
    """One line of a map.

    In both names `{i}` stands for a number, `{leaf}` for weight or bias, `{rest}` for anything.
    `layout` says how the published tensor differs from ours: it is `transpose`d, it lacks
    our `leading_ones` (dimensions of size 1), or it is a `scalar` where ours has one element. Of a
    model whose channels come before time, a linear layer has a `trailing_one`, a vector of channels
    lies in (1, C, 1), and a table of ours may have a `leading_two` dimensions of size 1.
    """

    published: str
    ours: str
    layout: Layout = "same"


class KeyMap:
    """Ordered renames; the first whose pattern fits a whole name decides."""

    def __init__(self, renames: Iterable[Rename]) -> None:
        self.renames = tuple(renames)
        self._forward: list[_Rule] = [
            (_pattern(r.published), r.ours, r.layout) for r in self.renames
        ]
        self._backward: list[_Rule] = [
            (_pattern(r.ours), r.published, r.layout) for r in self.renames
        ]

    def to_ours(self, published: str) -> tuple[str, Layout] | None:
        """Our name and the tensor's layout; None for a name the map does not know."""
        return _rename(published, self._forward)

    def to_published(self, ours: str) -> str | None:
        """The published name of one of our parameters; None if it has none."""
        found = _rename(ours, self._backward)
        return found and found[0]

    def publish(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under our names (weights or gradients) as the published model would hold them."""
        published = {}
        for name, tensor in tensors.items():
            found = _rename(name, self._backward)
            if found is None:
                raise KeyError(f"{name} has no published name")
            published[found[0]] = _TO_PUBLISHED[found[1]](tensor)
        return published

    def prefixed(self, published: str, ours: str) -> KeyMap:
        """The same map for a module that stands below these prefixes."""
        return KeyMap(
            Rename(published + r.published, ours + r.ours, r.layout) for r in self.renames
        )

    def __add__(self, other: KeyMap) -> KeyMap:
        """Both maps, the left one first."""
        return KeyMap(self.renames + other.renames)


def apply_layout(tensor: Tensor, layout: Layout, dims: int) -> Tensor:
    """Bring a published tensor into our layout; `dims` is our number of dimensions."""
    if layout == "transpose":
        return tensor.t()
    if layout == "scalar":
        return tensor.reshape(1)
    if layout in _FROM_PUBLISHED:
        return _FROM_PUBLISHED[layout](tensor)
    if layout == "leading_ones":
        return tensor.reshape((1,) * (dims - tensor.dim()) + tuple(tensor.shape))
    return tensor


_FROM_PUBLISHED: dict[Layout, Callable[[Tensor], Tensor]] = {
    "trailing_one": lambda tensor: tensor[..., 0],
    "channel": lambda tensor: tensor.reshape(-1),
    "leading_two": lambda tensor: tensor[0, 0],
}

_TO_PUBLISHED: dict[Layout, Callable[[Tensor], Tensor]] = {
    "same": lambda tensor: tensor,
    "transpose": lambda tensor: tensor.t(),
    "scalar": lambda tensor: tensor.reshape(()),
    "leading_ones": lambda tensor: tensor.reshape(_without_leading_ones(tensor)),
    "trailing_one": lambda tensor: tensor[..., None],
    "channel": lambda tensor: tensor[None, :, None],
    "leading_two": lambda tensor: tensor[None, None],
}


def _without_leading_ones(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for name, expression in _FIELDS.items():
        pattern = pattern.replace(re.escape(name), expression)
    return re.compile(pattern)


def _rename(key: str, renames: list[_Rule]) -> tuple[str, Layout] | None:
    for pattern, template, layout in renames:
        match = pattern.fullmatch(key)
        if match:
            return template.format(**match.groupdict()), layout
    return None
