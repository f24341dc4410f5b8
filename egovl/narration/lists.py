"""Records as the lists that trainings read: LaViLa's pickle, json lines, Parquet."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egovl.atomic import replacing

STEM = "total"
_COLUMNS = ("video_uid", "start_sec", "end_sec", "text", "scores", "checkpoint")


def write_lists(records: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write ``total.pkl``, ``total.jsonl`` and ``total.parquet``; returns the number of clips.

    The pickle has LaViLa's 5-tuples (video, start, end, texts, scores): lists, or a text and a
    number where every clip has one text. Clips without a text are left out.
    """
    rows = [record for record in records if record["texts"]]
    single = all(len(record["texts"]) == 1 for record in rows)
    tuples = [_tuple(record, single) for record in rows]
    with replacing(out / f"{STEM}.pkl", "wb") as file:
        pickle.dump(tuples, file)
    columns = {name: [_value(record, name) for record in rows] for name in _COLUMNS}
    with replacing(out / f"{STEM}.jsonl") as file:
        for values in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(_COLUMNS, values, strict=True))) + "\n")
    types = (pa.string(), pa.float64(), pa.float64())
    types += (pa.list_(pa.string()), pa.list_(pa.float64()), pa.string())
    schema = pa.schema(list(zip(_COLUMNS, types, strict=True)))
    with replacing(out / f"{STEM}.parquet", "wb") as file:
        pq.write_table(pa.table(columns, schema=schema), file)
    return len(rows)


def _value(record: Mapping[str, Any], name: str) -> Any:
    return record["texts" if name == "text" else name]


def _tuple(record: Mapping[str, Any], single: bool) -> tuple[Any, ...]:
    texts: Sequence[str] = record["texts"]
    scores: Sequence[float] = record["scores"]
    place = record["video_uid"], record["start_sec"], record["end_sec"]
    return (*place, texts[0], scores[0]) if single else (*place, list(texts), list(scores))
