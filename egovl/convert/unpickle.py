"""Read checkpoints that others wrote, without running anything they contain.

A torch checkpoint is a pickle, and a pickle may name any function of any module. Here a name either
stands in a short list of harmless builders or becomes an inert `Stub` that keeps its arguments and
state. Nothing foreign is imported. So EgoVLP's pickled config class, LaViLa's `argparse.Namespace`
and OpenAI's TorchScript archives all open on a machine that has none of that code.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

UNREAD = ("optimizer", "scaler")
"""Entries whose tensors are never read: they are most of a file and no use outside its training."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: float32 weights under their published names, and the rest as it stands."""

    path: Path
    state: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def args(self) -> dict[str, Any]:
        """The training arguments saved beside the weights; empty if there are none."""
        return attributes(self.extra.get("args", {}))


class Stub:
    """An object of a class that was not imported: its name, its arguments, its attributes."""

    origin = ""

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        """Make the stub, keeping positional arguments."""
        stub = super().__new__(cls)
        stub.__dict__["_arguments"] = args
        return stub

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Accept what the real class would."""

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"_state": state})

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__.setdefault("_items", []).append((key, value))

    def append(self, value: object) -> None:
        """Keep an element of a list subclass."""
        self.__dict__.setdefault("_elements", []).append(value)

    def __repr__(self) -> str:
        return f"<{self.origin} as a stub>"


def attributes(value: object) -> dict[str, Any]:
    """Attributes of a stub or entries of a mapping, without what pickle added."""
    held = value.__dict__ if isinstance(value, Stub) else value
    if not isinstance(held, Mapping):
        return {}
    return {str(k): v for k, v in held.items() if not str(k).startswith("_")}


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a torch, TorchScript or safetensors file.

    Weights are the entry `state_dict` or `model_state_dict` where there is one, else every tensor
    of the file. Leading `module.` is cut off names and floating point becomes float32.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged, of another kind, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    content = _read(path)
    weights = content.pop("state_dict", None) or content.pop("model_state_dict", None)
    if weights is None:
        weights, content = content, {}
    state = {strip_module(k): _float32(v) for k, v in weights.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights; its entries: {sorted(content)[:20]}")
    return Checkpoint(path, state, content)


def strip_module(key: str) -> str:
    """Cut a data-parallel wrapper's prefix off a name, as often as it stands there."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def load_pickle(
    source: Any, allowed: Mapping[tuple[str, str], Callable[..., object]] | None = None
) -> object:
    """Unpickle an open binary file, or anything with `read` and `readline`, without foreign code.

    Args:
        source: the file.
        allowed: (module, name) -> what to build, beyond the harmless builders known here.
    """
    return _InertUnpickler(source, allowed or {}).load()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        # the format before torch 1.6: no class but tensors is accepted
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict")
    return content


# what zip, pickle and torch raise on bytes that are not what they should be
_DAMAGE = (
    SafetensorError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: "
        f"{type(error).__name__}: {error}. It may be cut short: compare its size and download again"
    )


# --- torch archives: a zip with one pickle and one member per storage ---------------------------


@dataclass(frozen=True)
class _Storage:
    member: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _TensorPlace:
    """Where a tensor's numbers stand; read only when wanted."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Any]:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{archive.filename} is a zip file but not a torch checkpoint")
    root = pickles[0].removesuffix("data.pkl")
    with archive.open(pickles[0]) as file:
        content = _InertUnpickler(file, {}, storage_root=root + "data/").load()
    cache: dict[str, Tensor] = {}
    if isinstance(content, Stub):  # a TorchScript module: its attributes are its weights
        places = dict(_module_tensors(content, ""))
        return {name: _read_tensor(archive, place, cache) for name, place in places.items()}
    if not isinstance(content, dict):
        raise CheckpointError(f"{archive.filename} holds a {type(content).__name__}, not a dict")
    return {
        str(key): None if key in UNREAD else _resolve(archive, value, cache)
        for key, value in content.items()
    }


def _module_tensors(module: Stub, prefix: str) -> Iterator[tuple[str, _TensorPlace]]:
    for name, value in module.__dict__.items():
        if isinstance(value, _TensorPlace):
            yield prefix + name, value
        elif isinstance(value, Stub):
            yield from _module_tensors(value, f"{prefix}{name}.")


def _resolve(archive: zipfile.ZipFile, value: object, cache: dict[str, Tensor]) -> object:
    if isinstance(value, _TensorPlace):
        return _read_tensor(archive, value, cache)
    if isinstance(value, dict):
        return {k: _resolve(archive, v, cache) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve(archive, v, cache) for v in value]
    return value


def _read_tensor(archive: zipfile.ZipFile, place: _TensorPlace, cache: dict[str, Tensor]) -> Tensor:
    storage = place.storage
    needed = (
        1
        + place.offset
        + sum((size - 1) * stride for size, stride in zip(place.size, place.stride, strict=True))
    )
    if math.prod(place.size) and not 0 <= place.offset < needed <= storage.numel:
        raise CheckpointError(f"{storage.member}: a tensor of size {place.size} leaves its storage")
    if storage.member not in cache:
        content = bytearray(archive.read(storage.member))
        cache[storage.member] = (
            torch.frombuffer(content, dtype=storage.dtype, count=storage.numel)
            if storage.numel
            else torch.empty(0, dtype=storage.dtype)
        )
    return cache[storage.member].as_strided(place.size, place.stride, place.offset)


# --- the unpickler ------------------------------------------------------------------------------


class _InertUnpickler(pickle.Unpickler):
    """Builds known harmless things, and stubs for the rest."""

    def __init__(
        self,
        file: Any,
        allowed: Mapping[tuple[str, str], Callable[..., object]],
        storage_root: str = "",
    ) -> None:
        super().__init__(file)
        self._allowed = {**_HARMLESS, **allowed}
        self._storage_root = storage_root
        self._stubs: dict[str, type[Stub]] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what stands for a global name; nothing is ever imported."""
        if module_name in ("torch", "torch.storage") and global_name in _STORAGE_DTYPES:
            return global_name
        known = self._allowed.get((module_name, global_name))
        if known is not None:
            return known
        origin = f"{module_name}.{global_name}"
        if origin not in self._stubs:
            self._stubs[origin] = type("Stub", (Stub,), {"origin": origin})
        return self._stubs[origin]

    def persistent_load(self, pid: Any, /) -> Any:
        """Return the place of a storage."""
        kind, storage_type, key, _location, numel = pid
        dtype = _STORAGE_DTYPES.get(storage_type) if isinstance(storage_type, str) else None
        if kind != "storage" or dtype is None:
            raise CheckpointError(f"unknown storage {storage_type!r} in the pickle")
        return _Storage(f"{self._storage_root}{key}", dtype, int(numel))


def _tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: object
) -> _TensorPlace:
    return _TensorPlace(storage, offset, tuple(size), tuple(stride))


def _parameter(data: object, *_rest: object) -> object:
    return data


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    # protocol 2 spells bytes so
    return text.encode("latin1")


def _size(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(numbers)


def _posix_path(*parts: str) -> PurePosixPath:
    return PurePosixPath(*parts)


def _windows_path(*parts: str) -> PureWindowsPath:
    return PureWindowsPath(*parts)


# Python classes that a pickle could alter through BUILD are wrapped in functions or left to stubs.
_HARMLESS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): _latin1,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{
        (module, name): build
        for module in ("pathlib", "pathlib._local")
        for name, build in (
            ("PosixPath", _posix_path),
            ("PurePosixPath", _posix_path),
            ("WindowsPath", _windows_path),
            ("PureWindowsPath", _windows_path),
        )
    },
}
