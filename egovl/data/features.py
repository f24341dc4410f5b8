"""Stores of dense features: one matrix a video, and what is known of how they were made.

A store of ours is a folder with ``facts.json`` and one ``<name>.npy`` a video. Others' files are
read through the same protocol.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from egovl.atomic import replacing

FACTS = "facts.json"
_SUFFIX = ".npy"


@dataclass(frozen=True)
class FeatureFacts:
    """How a store's features were made; None where nobody knows."""

    fps: float | None = None
    """Frames per second of video that were sampled."""
    window_frames: int | None = None
    """Sampled frames behind one feature."""
    stride_frames: int | None = None
    """Sampled frames from one feature to the next."""
    width: int | None = None
    """Numbers of one feature."""
    layer: str | None = None
    """What of the model it is, as ``cls``."""
    projection: bool | None = None
    """Whether the projection into the joint space was applied."""
    weight_sha256: str | None = None
    """Hash of the weights."""

    @property
    def features_per_sec(self) -> float | None:
        """Features of one second of video."""
        if self.fps is None or self.stride_frames is None:
            return None
        return self.fps / self.stride_frames


class FeatureStore(Protocol):
    """Features of many videos."""

    @property
    def facts(self) -> FeatureFacts:
        """How they were made."""
        ...

    def names(self) -> Sequence[str]:
        """Names of the videos, sorted."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Features of a video, float32 ``[length, width]``.

        Raises:
            KeyError: The store lacks it.
            ValueError: What lies there is no matrix.
        """
        ...


class FeatureFolder:
    """A store of ours; a folder of bare ``.npy`` files is one of which nothing is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.facts = _read_facts(path / FACTS) if (path / FACTS).exists() else FeatureFacts()

    def names(self) -> list[str]:
        """Names of the videos, sorted."""
        files = self._path.rglob(f"*{_SUFFIX}")
        return sorted(
            file.relative_to(self._path).as_posix().removesuffix(_SUFFIX)
            for file in files
            if not file.name.startswith(".")
        )

    def read(self, name: str) -> np.ndarray:
        """Features of a video, float32 ``[length, width]``."""
        path = _place(self._path, name)
        try:
            features = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise KeyError(f"{self._path} has no features of {name!r}") from None
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); extract {name!r} again") from error
        return check_features(features, self.facts.width, str(path))


class FeatureWriter:
    """Writes a store of ours, one file a video; several processes may write to one folder."""

    def __init__(self, folder: Path, facts: FeatureFacts) -> None:
        """Begin a store, or go on with one of the same facts.

        Raises:
            ValueError: The folder holds features that were made otherwise.
        """
        self._folder = folder
        self._facts = facts
        if (folder / FACTS).exists():
            _require_same(_read_facts(folder / FACTS), facts, folder)
        else:
            with replacing(folder / FACTS) as file:
                json.dump(dataclasses.asdict(facts), file, indent=1)

    def __contains__(self, name: str) -> bool:
        """Whether a video's features are there."""
        return _place(self._folder, name).exists()

    def write(self, name: str, array: np.ndarray) -> None:
        """Write a video's features ``[length, width]`` whole, or not at all.

        Raises:
            ValueError: No such matrix, another width, values that are no numbers, a bad name.
        """
        features = check_features(array, self._facts.width, name)
        if not np.isfinite(features).all():
            raise ValueError(f"{name}: its features hold values that are not finite")
        with replacing(_place(self._folder, name), "wb") as file:
            np.save(file, features, allow_pickle=False)


def open_features(path: Path) -> FeatureStore:
    """The store that lies at ``path``, whatever its format.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: Nothing there is a known format.
    """
    if not path.exists():
        raise FileNotFoundError(f"no features at {path}")
    if path.is_dir() and ((path / FACTS).exists() or any(path.glob(f"*{_SUFFIX}"))):
        return FeatureFolder(path)
    raise ValueError(f"{path} holds no features: expected a folder with {FACTS} or *{_SUFFIX}")


def check_features(array: np.ndarray, width: int | None, where: str) -> np.ndarray:
    """``array`` as float32 ``[length, width]``.

    Raises:
        ValueError: It is no such matrix.
    """
    if array.ndim != 2 or (width is not None and array.shape[1] != width):
        raise ValueError(f"{where}: shape {list(array.shape)}, expected [length, {width or 'D'}]")
    return np.asarray(array, dtype=np.float32)


def _place(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or parts[-1].startswith("."):
        raise ValueError(f"{name!r} is no name of a video")
    return folder / f"{name}{_SUFFIX}"


def _read_facts(path: Path) -> FeatureFacts:
    try:
        return FeatureFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _require_same(there: FeatureFacts, wanted: FeatureFacts, folder: Path) -> None:
    old, new = dataclasses.asdict(there), dataclasses.asdict(wanted)
    differing = [f"{k} {old[k]}, now {new[k]}" for k in old if old[k] != new[k]]
    if differing:
        raise ValueError(
            f"{folder} holds features made otherwise ({'; '.join(differing)}): "
            "write to another folder"
        )
