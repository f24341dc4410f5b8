"""Reading a checkpoint's ``.metadata`` without trusting its pickle."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorProperties

# what torch.distributed.checkpoint writes there, and nothing that can act when built
_ALLOWED = {
    "builtins": {"set", "frozenset", "slice", "bytearray"},
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch._utils": {"_rebuild_tensor_v2"},
    "torch.storage": {"UntypedStorage"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "StoredMetadata"},
    "torch.distributed.checkpoint._extension": {"StreamTransformExtension"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
}


class _NewerProperties(TensorProperties):
    """What a newer torch wrote: strides, since 2.15, follow what an older one knows."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        super().__setstate__(state[: len(TensorProperties().__getstate__())])
        self.__class__ = TensorProperties  # type: ignore[assignment]  equal to others of it


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        is_dtype = module_name == "torch" and global_name in _DTYPES
        if (module_name, global_name) == (TensorProperties.__module__, TensorProperties.__name__):
            return _NewerProperties
        if is_dtype or global_name in _ALLOWED.get(module_name, ()):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(
            f"checkpoint metadata names {module_name}.{global_name}, which no checkpoint of "
            "torch.distributed.checkpoint needs: the file is damaged or was tampered with"
        )


_DTYPES = {
    "bfloat16", "bool", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2",
    "int16", "int32", "int64", "int8", "uint8", "complex64", "complex128",
}  # fmt: skip


class SafeReader(FileSystemReader):
    """``FileSystemReader`` whose metadata passes through a restricted unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read ``.metadata``; raises ``ValueError`` where the file is damaged."""
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with self.fs.create_stream(path, "rb") as file:
                metadata: Metadata = _MetadataUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: {error}") from error
        except (ValueError, TypeError) as error:
            words = f"torch {torch.__version__} cannot read it: damaged, or written by another"
            raise ValueError(f"{path}: {words} ({error})") from error
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return metadata
