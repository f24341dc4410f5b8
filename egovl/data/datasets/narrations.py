"""LaViLa's narration lists: human, rephrased and pseudo-labelled clips in one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egovl.data.annotations import ClipTable, ClipTableWriter, Conversion, converted
from egovl.data.datasets.clip_rows import ClipRows
from egovl.data.datasets.configs import NarrationsConfig
from egovl.data.manifest import and_manifest
from egovl.data.pickled import load_plain
from egovl.data.types import Sample

_VERSION = 1
_FIELDS = ("video_uid", "start_sec", "end_sec", "text")


class Narrations(ClipRows):
    """One clip and its text or texts; label ``is_human`` tells the sources apart.

    Raises:
        FileNotFoundError: A list or the video folder is missing.
        ValueError: A row that cannot be read; the message names file and row.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: NarrationsConfig) -> None:
        config.check_root()
        sources = (*config.annotations, *config.pseudo)
        write = partial(_convert, sources, len(config.annotations), config.manifest)
        conversion = Conversion("narrations", _VERSION, str(len(config.annotations)), write)
        inputs = and_manifest(sources, config.manifest)
        super().__init__(config, ClipTable(converted(inputs, conversion, config.cache_folder)))
        self._config = config

    def __getitem__(self, index: int) -> Sample:
        texts = tuple(self._table.value("texts", index))
        if self._config.selection == "concat":
            texts = (". ".join(texts),)
        is_human = int(self._table.value("is_human", index))
        return Sample(index, (self.clip(index),), texts, {"is_human": is_human})


def _convert(sources: Sequence[Path], num_human: int, manifest: Path | None, folder: Path) -> None:
    columns = {"texts": pa.list_(pa.large_string()), "is_human": pa.bool_()}
    writer = ClipTableWriter(folder, columns, manifest)
    for number, source in enumerate(sources):
        for row, entry in enumerate(_READERS[_kind(source)](source)):
            try:
                uid, start_sec, end_sec, texts = _check(entry)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source}, row {row}: {error}; correct or drop it") from error
            is_human = number < num_human
            writer.add(uid, start_sec, end_sec, start_sec, texts=texts, is_human=is_human)
    if writer.is_empty:
        raise ValueError(f"{[str(source) for source in sources]} have no rows")
    writer.close()


def _check(entry: Sequence[Any]) -> tuple[str, float, float, list[str]]:
    if not isinstance(entry, list | tuple) or len(entry) not in (4, 5):
        raise ValueError(f"{entry!r:.80} is no (video, start, end, text[, scores])")
    uid, text = entry[0], entry[3]
    start, end = max(float(entry[1]), 0.0), float(entry[2])
    texts = [text] if isinstance(text, str) else list(text)
    if not isinstance(uid, str) or not uid:
        raise ValueError(f"the video is {uid!r}")
    if not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"the text is {text!r:.80}")
    if not start < end:
        raise ValueError(f"start {start} and end {end} hold no time")
    return uid, start, end, texts


def _kind(path: Path) -> str:
    kind = path.suffix.removeprefix(".")
    if kind not in _READERS:
        raise ValueError(f"{path}: a narration list is one of {', '.join(_READERS)}")
    return kind


def _read_pickle(path: Path) -> Iterator[Sequence[Any]]:
    rows = load_plain(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}, not a list of rows")
    yield from rows


def _read_jsonl(path: Path) -> Iterator[Sequence[Any]]:
    """Rows as arrays, or as objects with the fields' names."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                row = json.loads(line)
                yield [row.get(name) for name in _FIELDS] if isinstance(row, dict) else row


def _read_parquet(path: Path) -> Iterator[Sequence[Any]]:
    with pq.ParquetFile(path) as file:
        missing = set(_FIELDS) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"{path} lacks the columns {sorted(missing)}")
        for batch in file.iter_batches(columns=list(_FIELDS)):
            columns = [batch.column(name).to_pylist() for name in _FIELDS]
            yield from zip(*columns, strict=True)


_READERS = {"pkl": _read_pickle, "jsonl": _read_jsonl, "parquet": _read_parquet}
