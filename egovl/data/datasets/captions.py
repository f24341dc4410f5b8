"""WebVid and Conceptual Captions: one caption for a whole video or picture (EgoVLP)."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from egovl.data.annotations import ClipTable, ClipTableWriter, Conversion, converted
from egovl.data.datasets.clip_rows import ClipRows
from egovl.data.datasets.configs import _CaptionsConfig
from egovl.data.manifest import and_manifest
from egovl.data.types import Sample

_VERSION = 1


class Captions(ClipRows):
    """One whole file and its caption per sample."""

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: _CaptionsConfig) -> None:
        config.check_root()
        write = partial(_convert, config)
        options = f"{config.subsample} {config.max_rows}"
        folder = converted(
            and_manifest([config.annotations], config.manifest),
            Conversion("captions", _VERSION, options, write),
            config.cache_folder,
        )
        super().__init__(config, ClipTable(folder))

    def __getitem__(self, index: int) -> Sample:
        return Sample(index, (self.clip(index),), (self._table.value("text", index),), {})


def _convert(config: _CaptionsConfig, folder: Path) -> None:
    path, subsample, max_rows = config.annotations, config.subsample, config.max_rows
    writer = ClipTableWriter(folder, {"text": pa.large_string()}, config.manifest)
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows, None)
        for cells in rows:
            if len(cells) < 2 or not cells[1]:
                raise ValueError(f"{path}, line {rows.line_num}: needs caption and path stem")
            if max_rows is not None and len(writer) == max_rows:
                break
            if subsample == 1 or _share(cells[1]) < subsample:
                writer.add(cells[1], 0.0, math.inf, 0.0, text=cells[0])
    if writer.is_empty:
        raise ValueError(f"{path} has no rows")
    writer.close()


def _share(stem: str) -> float:
    """A number of 0 .. 1 that belongs to a path for good."""
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big") / 2**64
