"""Names of the published classification heads, which stand behind a video tower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from egovl.convert.keys import KeyMap, Rename

OWN_HEADS = r"heads\..*"
"""Our names of heads; they may be missing when a tower alone is loaded."""

_EK100 = ("verb", "noun", "action")


def lavila_head_keys(labels: Sequence[str], state: Mapping[str, Tensor]) -> KeyMap:
    """LaViLa's `fc_cls`: bare for a single head, numbered for several (its spec, 2.7)."""
    if "fc_cls.weight" in state or (len(labels) == 1 and "fc_cls.0.weight" not in state):
        return KeyMap([Rename("fc_cls.{leaf}", f"heads.{labels[0]}." + "{leaf}")])
    return KeyMap(
        Rename(f"fc_cls.{i}." + "{leaf}", f"heads.{label}." + "{leaf}")
        for i, label in enumerate(labels)
    )


def lavila_heads(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Labels and classes of the heads in a LaViLa file; empty if it has none.

    A single head is the action's, three are verb, noun and action; others go by number.
    """
    if "fc_cls.weight" in state:
        return {"action": state["fc_cls.weight"].shape[0]}
    numbers = sorted(
        int(m[1]) for key in state if (m := re.fullmatch(r"fc_cls\.(\d+)\.weight", key))
    )
    labels = _EK100 if len(numbers) == len(_EK100) else tuple(f"head{i}" for i in numbers)
    sizes = [state[f"fc_cls.{i}.weight"].shape[0] for i in numbers]
    return dict(zip(labels, sizes, strict=True))
