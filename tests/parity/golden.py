"""Golden cases: inputs, weights and outputs of a published system, and how close is close.

A case is ``<name>.json`` with, where it has tensors, ``<name>.safetensors`` beside it. ``EGOVL_GOLDEN``
names another folder of sets; every rule of reading them stands here once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN_ROOT = Path(os.environ.get("EGOVL_GOLDEN", Path(__file__).parent / "golden"))

# class -> (absolute floor, factor of the largest golden magnitude); "X" is exact
TOLERANCES = {
    "F": (1e-5, 2e-5),
    "G": (1e-5, 1e-4),
    "M": (1e-9, 1e-6),
    "L": (1e-12, 1e-6),
    "O": (1e-6, 1e-6),
    "X": (0.0, 0.0),
}


@dataclass
class GoldenCase:
    """One golden file pair; counts what was compared, so that a test can fail when nothing was."""

    path: Path
    checked: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def json(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        file = self.path.with_suffix(".safetensors")
        return load_file(file) if file.exists() else {}

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix/``, with the prefix cut off."""
        start = prefix.rstrip("/") + "/"
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}

    def sibling(self, file_name: str) -> GoldenCase:
        """The case of another file of the same folder (json key ``weights_file``)."""
        return GoldenCase((self.path.parent / file_name).with_suffix(".json"), self.checked)

    def close(self, label: str, actual: object, golden: object, tolerance: str) -> None:
        """Assert that ``actual`` equals ``golden`` within a tolerance class; NaN equals NaN."""
        a, b = _array(actual), _array(golden)
        assert a.shape == b.shape, f"{self.name} {label}: shape {a.shape}, golden {b.shape}"
        self.checked.append(label)
        if tolerance == "X":
            np.testing.assert_array_equal(a, b, err_msg=f"{self.name} {label}")
            return
        assert (np.isnan(a) == np.isnan(b)).all(), f"{self.name} {label}: NaN pattern differs"
        infinite = np.isinf(b)
        assert (a[infinite] == b[infinite]).all(), f"{self.name} {label}: infinities differ"
        finite = ~(np.isnan(b) | infinite)
        a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
        if not b.size:
            return
        floor, relative = TOLERANCES[tolerance]
        limit = floor + relative * np.abs(b).max()
        worst = np.abs(a - b).max()
        assert worst <= limit, f"{self.name} {label}: off by {worst:.3g}, allowed {limit:.3g}"

    def exact(self, label: str, actual: object, golden: object) -> None:
        """Assert equality of ids, names, lists and strings."""
        assert plain(actual) == plain(golden), f"{self.name} {label}: {actual} is not {golden}"
        self.checked.append(label)

    def raises(self, label: str, call: Callable[[], object]) -> None:
        """Assert that ``call`` refuses its input, as the published code does, with a message."""
        with pytest.raises(Exception) as caught:
            call()
        assert str(caught.value), f"{self.name} {label}: raised without a message"
        self.checked.append(label)


def plain(value: object) -> object:
    """Tensors, arrays and tuples as plain lists, so that == compares values."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value


def _array(value: object) -> np.ndarray:
    if isinstance(value, Tensor):
        return (
            value.detach().to(torch.float64 if value.is_floating_point() else value.dtype).numpy()
        )
    return np.asarray(value)


Check = Callable[[GoldenCase], None]
Families = Sequence[tuple[str, Check | str]]


def golden_files(system: str) -> list[Path]:
    """Every json of a system's set; a safetensors file without its json is an error."""
    folder = GOLDEN_ROOT / system
    jsons = sorted(folder.glob("*.json"))
    lone = [f.name for f in folder.glob("*.safetensors") if not f.with_suffix(".json").exists()]
    assert not lone, f"{folder}: tensors without a json: {lone}"
    return jsons


def run_family(path: Path, families: Families) -> None:
    """Run the check of the first family whose expression matches; fail if it compared nothing.

    A family mapped to text is not built yet: the text says where it comes, and the test skips.
    """
    for expression, check in families:
        if re.match(expression, path.stem):
            if isinstance(check, str):
                pytest.skip(f"{path.stem}: {check}")
            case = GoldenCase(path)
            check(case)
            assert case.checked, f"{path.name}: nothing was checked"
            return
    raise AssertionError(f"{path.name} matches no family of {[name for name, _ in families]}")


def names(paths: Iterable[Path]) -> list[str]:
    """Test ids."""
    return [path.stem for path in paths]
