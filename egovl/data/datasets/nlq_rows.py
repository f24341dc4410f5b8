"""Ego4D NLQ annotations, version 1 and 2, as one row a query (GroundNLQ spec 3.1, 3.2).

A row is read from the official json or from the published lines of json, and written as the latter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.data.datasets.state_change import load_json

QUERY_TYPES = ("nlq", "narration", "nlq_narration")
"""The published converter writes ``nlq_narration``, its data set accepts the other two."""


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One query of one clip.

    Attributes:
        query: the text.
        query_id: ``<annotation uid>_<index in the raw list>``, or of a narration.
        duration_sec: length of the clip.
        video_id: uid of the clip, the name of its features.
        query_type: see ``QUERY_TYPES``.
        spans: start and end in seconds of the clip; None where nobody tells.
        fps: frames per second, where the row states it.
    """

    query: str
    query_id: str
    duration_sec: float
    video_id: str
    query_type: str
    spans: tuple[tuple[float, float], ...] | None
    fps: float | None = None

    @property
    def annotation(self) -> tuple[str, int]:
        """Annotation uid and index of the query in it.

        Raises:
            ValueError: The id is not made so.
        """
        uid, _, number = self.query_id.partition("_")
        if not number.isdigit():
            raise ValueError(f"query_id {self.query_id!r} is not <annotation uid>_<index>")
        return uid, int(number)

    def record(self) -> dict[str, Any]:
        """The published line."""
        is_narration = self.query_type != "nlq"
        text = {"narration_query" if is_narration else "query": self.query}
        record = text | {
            "query_id": self.query_id,
            "duration": self.duration_sec,
            "video_id": self.video_id,
            "query_type": self.query_type,
        }
        if self.spans is not None:
            record["timestamps"] = [list(span) for span in self.spans]
        return record


def query_rows(source: Mapping[str, Any], *, with_spans: bool = True) -> Iterator[QueryRow]:
    """Rows of an official json; queries without a text are left out but keep their index.

    Raises:
        ValueError: What a clip or query lacks.
    """
    for video in source.get("videos", []):
        for clip in video.get("clips", []):
            try:
                yield from _rows_of_clip(clip, with_spans)
            except (KeyError, TypeError, ValueError) as error:
                uid = clip.get("clip_uid", "without clip_uid")
                raise ValueError(f"clip {uid}: {error!r} is missing or no value") from error


def _rows_of_clip(clip: Mapping[str, Any], with_spans: bool) -> Iterator[QueryRow]:
    duration = float(clip["video_end_sec"]) - float(clip["video_start_sec"])
    for annotation in clip.get("annotations") or []:
        for number, query in enumerate(annotation.get("language_queries") or []):
            if not query.get("query"):
                continue
            span = None
            if with_spans and "clip_start_sec" in query:
                span = ((float(query["clip_start_sec"]), float(query["clip_end_sec"])),)
            yield QueryRow(
                query=str(query["query"]),
                query_id=f"{annotation['annotation_uid']}_{number}",
                duration_sec=duration,
                video_id=str(clip["clip_uid"]),
                query_type="nlq",
                spans=span,
            )


def read_rows(path: Path) -> list[QueryRow]:
    """Rows of an official ``.json`` or of published lines in a ``.jsonl`` file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Names the file and the line or clip.
    """
    if path.suffix == ".json":
        try:
            rows = list(query_rows(load_json(path)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        if not path.is_file():
            raise FileNotFoundError(f"annotations {path} does not exist")
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [_row_of_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{path} has no queries")
    return rows


def _row_of_line(path: Path, number: int, line: str) -> QueryRow:
    try:
        return row_of_record(json.loads(line))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}, line {number}: {error!r} is missing or no value") from error


def row_of_record(record: Mapping[str, Any]) -> QueryRow:
    """A row from a published line; the narration is the query where there is one.

    Raises:
        KeyError: A field is missing.
        ValueError: A query type that nothing knows.
    """
    kind = record["query_type"]
    if kind not in QUERY_TYPES:
        raise ValueError(f"query_type {kind!r}, known are {QUERY_TYPES}")
    times = record.get("timestamps")
    return QueryRow(
        query=record.get("narration_query") or record.get("query") or "",
        query_id=str(record["query_id"]),
        duration_sec=float(record["duration"]),
        video_id=str(record["video_id"]),
        query_type=kind,
        spans=None if times is None else tuple((float(s), float(e)) for s, e in times),
        fps=record.get("fps"),
    )


def write_rows(path: Path, rows: Iterable[QueryRow]) -> int:
    """Write published lines, one a row, without a line break at the end; returns how many."""
    lines = [json.dumps(row.record()) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return len(lines)


def split_bad_rows(rows: Sequence[QueryRow]) -> tuple[list[QueryRow], list[str]]:
    """Rows that can be learned from or asked, and a note on each of the others."""
    good: list[QueryRow] = []
    notes: list[str] = []
    for row in rows:
        fault = _fault(row)
        if fault:
            notes.append(f"{row.query_id}: {fault}")
        else:
            good.append(row)
    return good, notes


def _fault(row: QueryRow) -> str | None:
    if not row.query.strip():
        return "its text is empty"
    if not row.duration_sec > 0:
        return f"its clip {row.video_id} lasts {row.duration_sec} s"
    for start, end in row.spans or ():
        # ends slightly past the clip are common in the released files, and harmless
        if not start <= end:
            return f"its span {start} .. {end} s ends before it starts"
        if start >= row.duration_sec or end < 0:
            return f"its span {start} .. {end} s lies outside of its clip of {row.duration_sec} s"
    return None
