"""Put published weights into a model, strictly, and say what happened to every name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from egovl.convert.keys import KeyMap, apply_layout
from egovl.convert.unpickle import CheckpointError, strip_module

logger = logging.getLogger(__name__)

SHOWN = 8

PSEUDO_SCALE = r"pseudo_logit_scale"
"""The second temperature, which LaViLa keeps with its loss and not with its model."""
AGGREGATOR = r"aggregator\..*"
"""What only HierVL has above its clips; other systems' files leave it as it is."""


@dataclass(frozen=True)
class LoadReport:
    """What a load did. `missing` are our names, the other two published names."""

    matched: int
    missing: tuple[str, ...]
    """Parameters of the model that the checkpoint lacks; they keep their initial values."""
    unexpected: tuple[str, ...]
    """Names the checkpoint may have and the model has no place for."""
    dropped: tuple[str, ...]
    """Names known to be useless: constant buffers, heads of another task."""

    def __str__(self) -> str:
        return (
            f"{self.matched} tensors loaded, {len(self.missing)} kept their initial value, "
            f"{len(self.unexpected)} unexpected, {len(self.dropped)} dropped"
        )


@dataclass(frozen=True)
class Tolerated:
    """Exceptions to strictness, as expressions for whole names."""

    missing: tuple[str, ...] = ()
    """Our names that may be absent."""
    dropped: tuple[str, ...] = ()
    """Published names to leave out."""
    unexpected: tuple[str, ...] = ()
    """Published names that may be left over."""


STRICT = Tolerated()


def load_published(
    model: nn.Module,
    state: Mapping[str, Tensor],
    key_map: KeyMap,
    tolerated: Tolerated = STRICT,
) -> LoadReport:
    """Copy a published state dict into `model`.

    Raises:
        CheckpointError: nothing matched, a tensor has another shape, or a name is missing or left
            over that `tolerated` does not name.
    """
    found, report = match_published(model.state_dict(), state, key_map, tolerated)
    model.load_state_dict(found, strict=False)
    logger.info("%s", report)
    return report


def match_published(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    key_map: KeyMap,
    tolerated: Tolerated = STRICT,
) -> tuple[dict[str, Tensor], LoadReport]:
    """A published state dict under our names and in our layout.

    Args:
        own: names and shapes of the model, whose tensors may be on the meta device.
        state: the published tensors.
        key_map: from their names to ours.
        tolerated: what may be missing or left over.

    Raises:
        CheckpointError: as `load_published`.
    """
    found, unexpected, dropped = _sort(own, state, key_map, tolerated)
    if not found:
        raise CheckpointError(
            f"nothing in this checkpoint fits the model: it has {_some(state)}, "
            f"the model has {_some(own)}"
        )
    _require_shapes(own, found)
    missing = [name for name in own if name not in found]
    _refuse("lacks", missing, tolerated.missing)
    _refuse("has no place in the model for", unexpected, tolerated.unexpected)
    report = LoadReport(len(found), tuple(missing), tuple(unexpected), tuple(dropped))
    return found, report


def _sort(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], key_map: KeyMap, tolerated: Tolerated
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    dropped: list[str] = []
    for key, tensor in state.items():
        published = strip_module(key)
        target = key_map.to_ours(published)
        if _fits(published, tolerated.dropped):
            dropped.append(published)
        elif target is None or target[0] not in own:
            unexpected.append(published)
        else:
            name, layout = target
            value = tensor.float() if tensor.is_floating_point() else tensor
            found[name] = apply_layout(value, layout, own[name].dim())
    return found, unexpected, dropped


def _require_shapes(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, tensor in found.items():
        have, want = tuple(tensor.shape), tuple(own[name].shape)
        if have == want:
            continue
        hint = ""
        if name.endswith("pos_embed") and len(have) == 3:
            hint = (
                f": the checkpoint's frames have {have[1] - 1} patches, the model's {want[1] - 1}; "
                "set image_size and patch_size to match, or init.resize_positions=true"
            )
        elif name.endswith("temporal_embed"):
            hint = f": the checkpoint has {have[1]} frames, the model {want[1]}; inflate it first"
        raise CheckpointError(f"{name} is {have} in the checkpoint and {want} in the model{hint}")


def _refuse(verb: str, names: list[str], tolerated: tuple[str, ...]) -> None:
    refused = [name for name in names if not _fits(name, tolerated)]
    if refused:
        raise CheckpointError(f"the checkpoint {verb} {len(refused)} tensors: {_some(refused)}")


def _fits(name: str, expressions: Iterable[str]) -> bool:
    return any(re.fullmatch(expression, name) for expression in expressions)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
