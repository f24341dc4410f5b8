"""Features in others' files: LMDB, and folders of npz, pt, safetensors or npy, one file a video.

In an archive ``token_features`` is the matrix (texts), else ``features``; other arrays are ignored,
and one row may lie there without its first dimension (GroundNLQ spec 3.4).
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egovl.data.features import FACTS, FeatureFacts, check_features, read_facts

log = logging.getLogger(__name__)

ARRAYS = ("token_features", "features")
_SUFFIXES = (".npz", ".pt", ".safetensors", ".npy")
_SALVAGE_BYTES = 2 << 30  # a truncated store up to this size is read as far as it goes
_DAMAGE = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError)


def open_feature_files(path: Path) -> LmdbFeatures | FeatureFiles | None:
    """The store at ``path`` if it is one of these; None if it is not."""
    if (path / "data.mdb").is_file():
        return LmdbFeatures(path)
    if path.is_dir() and any(file.suffix in _SUFFIXES for file in path.iterdir()):
        return FeatureFiles(path)
    return None


class FeatureFiles:
    """A folder with one file a video."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = _facts_of(path)
        self._files: Mapping[str, Path] = {
            file.stem: file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES
        }

    def names(self) -> Sequence[str]:
        """Names of the videos, sorted."""
        return sorted(self._files)

    def read(self, name: str) -> np.ndarray:
        """Features of a video, float32 ``[length, width]``.

        Raises:
            KeyError: The folder lacks it.
            ValueError: The file is damaged, or holds no matrix.
        """
        file = self._files.get(name)
        if file is None:
            raise KeyError(f"{self.path} has no features of {name!r}")
        try:
            array = _load(file)
        except _DAMAGE as error:
            raise ValueError(f"{file} is damaged ({error}); extract {name!r} again") from error
        return _matrix(array, self.facts, str(file))


def _load(file: Path) -> np.ndarray:
    if file.suffix == ".npz":
        return _from_archive(file.read_bytes(), str(file))
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return _pick(load_file(file), str(file))
    import torch

    content = torch.load(file, map_location="cpu", weights_only=True)
    held = _pick(content, str(file)) if isinstance(content, Mapping) else content
    return held.float().numpy()


def _from_archive(data: bytes, where: str) -> np.ndarray:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        name = next((name for name in ARRAYS if name in archive.files), None)
        if name is None:
            raise ValueError(f"{where} has arrays {archive.files}, none of {ARRAYS}")
        return archive[name]


def _pick(arrays: Mapping[str, Any], where: str) -> Any:
    name = next((name for name in ARRAYS if name in arrays), None)
    if name is None:
        raise ValueError(f"{where} has {sorted(arrays)[:8]}, none of {ARRAYS}")
    return arrays[name]


def _matrix(array: np.ndarray, facts: FeatureFacts, where: str) -> np.ndarray:
    return check_features(array[None] if array.ndim == 1 else array, facts.width, where)


def _facts_of(path: Path) -> FeatureFacts:
    return read_facts(path / FACTS) if (path / FACTS).exists() else FeatureFacts()


class LmdbFeatures:
    """An LMDB folder whose values are npz archives; opened anew by every process that reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = _facts_of(path)

    def names(self) -> Sequence[str]:
        """Names of the videos, sorted as bytes; those of a truncated store as far as it goes."""
        import lmdb

        found: list[str] = []
        try:
            with self._open().begin() as transaction:
                found += [bytes(key).decode() for key in transaction.cursor().iternext(True, False)]
        except lmdb.Error as error:
            log.warning("%s: its keys can be read up to %d only (%s)", self.path, len(found), error)
        return found

    def read(self, name: str) -> np.ndarray:
        """Features of a video, float32 ``[length, width]``.

        Raises:
            KeyError: The store lacks it.
            ValueError: The store or the record is damaged, or no matrix.
        """
        import lmdb

        where = f"{self.path} [{name}]"
        try:
            with self._open().begin() as transaction:
                value = transaction.get(name.encode())
        except lmdb.Error as error:
            raise ValueError(f"{where} cannot be read ({error}); copy the store again") from error
        if value is None:
            raise KeyError(f"{self.path} has no features of {name!r}")
        try:
            array = _from_archive(value, where)
        except _DAMAGE as error:
            raise ValueError(f"{where} is damaged ({error}); copy the store again") from error
        return _matrix(array, self.facts, where)

    def _open(self) -> Any:
        return _environment_of(self.path.resolve())


@dataclass(frozen=True)
class _Opened:
    environment: Any
    process: int
    state: tuple[int, int, int]


_OPENED: dict[Path, _Opened] = {}
"""A process may open a store once only, however many datasets read it."""


def _environment_of(folder: Path) -> Any:
    """The environment of this process; one that came along with a fork is not used."""
    found, stat = _OPENED.get(folder), (folder / "data.mdb").stat()
    state = stat.st_ino, stat.st_size, stat.st_mtime_ns
    if found is not None:
        if found.process == os.getpid() and found.state == state:
            return found.environment
        found.environment.close()  # read-only and without locks: its parent's stays open
    _OPENED.pop(folder, None)
    environment = _open_lmdb(folder)
    _OPENED[folder] = _Opened(environment, os.getpid(), state)
    return environment


def _open_lmdb(folder: Path) -> Any:
    import lmdb

    options: dict[str, Any] = {"readonly": True, "lock": False, "readahead": False}
    try:
        environment = lmdb.open(str(folder), **options)
    except lmdb.Error as error:
        raise ValueError(f"{folder} is no LMDB store ({error}); copy it again") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    held = (folder / "data.mdb").stat().st_size
    if held >= needed:
        return environment
    # pages behind the end of the file would kill the process that touches them
    environment.close()
    log.warning("%s is cut short: data.mdb holds %d of %d bytes", folder, held, needed)
    if needed > _SALVAGE_BYTES:
        raise ValueError(
            f"{folder} is cut short: data.mdb holds {held} of {needed} bytes; copy it again"
        )
    whole = Path(tempfile.mkdtemp(prefix="egovl-lmdb-"))
    atexit.register(shutil.rmtree, whole, ignore_errors=True)
    shutil.copyfile(folder / "data.mdb", whole / "data.mdb")
    os.truncate(whole / "data.mdb", needed)
    return lmdb.open(str(whole), **options)


def write_lmdb(folder: Path, records: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write archives as an LMDB folder, as GroundNLQ's converters do.

    Args:
        folder: a new folder.
        records: name -> arrays of its archive.
    """
    import lmdb

    folder.mkdir(parents=True, exist_ok=True)
    size = sum(a.nbytes for arrays in records.values() for a in arrays.values())
    environment = lmdb.open(str(folder), map_size=2 * size + (64 << 20))
    try:
        with environment.begin(write=True) as transaction:
            for name, arrays in records.items():
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **dict[str, Any](arrays))
                transaction.put(name.encode(), buffer.getvalue())
    finally:
        environment.close()
