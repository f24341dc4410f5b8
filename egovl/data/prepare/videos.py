"""A folder of videos to a folder of chunks, in shares that tasks of an array make.

::

    <out>/prepare.json           how the chunks were made; another way is refused
    <out>/.shards/               records of the videos done, per share
    <out>/manifest.jsonl         all of them, once every share is whole
    <out>/failed.jsonl           videos that could not be made, and why

A stopped share goes on at the first chunk that is missing. A video that failed is tried again by
the next run of its share.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.atomic import replacing
from egovl.data.manifest import MANIFEST
from egovl.data.prepare.configs import VideosConfig
from egovl.data.prepare.guarded import run_guarded
from egovl.data.prepare.transcode import transcode
from egovl.shards import KEY, ShardWriter, read_shards, share_of, unfinished_shards

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
FAILED = "failed.jsonl"
_FACTS, _SHARDS = "prepare.json", ".shards"
_PART_RECORDS, _PART_SEC = 32, 30.0
_Item = tuple[str, Path, VideosConfig]


@dataclass(frozen=True)
class VideosReport:
    """What a run of a share came to; `manifest` is there once all shares are whole."""

    made: int
    were_there: int
    failed: dict[str, str]
    left: int
    manifest: Path | None


def prepare_videos(
    config: VideosConfig, should_stop: Callable[[], bool] = lambda: False
) -> VideosReport:
    """Make the chunks of a share.

    Args:
        config: What, where, how, which share.
        should_stop: Ends the work; what is done is kept. Asked twice a second.

    Raises:
        FileNotFoundError: The source folder, or a listed video, is not there.
        ValueError: The out folder holds chunks that were made otherwise; no videos.
    """
    sources = find_videos(config)
    _claim_facts(config)
    share = share_of(sorted(sources), config.shard, config.shards)
    shards = config.out / _SHARDS
    writer = ShardWriter(shards, config.shard, config.shards)
    done = {
        r[KEY] for r in read_shards(shards) if all((config.out / f).exists() for f in r["files"])
    }
    todo = [(name, sources[name], config) for name in share if name not in done]
    workers = config.workers or len(os.sched_getaffinity(0))
    log.info("%d of %d videos to make, %d at a time", len(todo), len(share), workers)
    failed: dict[str, str] = {}
    made = 0
    with _Buffer(writer) as buffer:
        outcomes = run_guarded(_make, todo, workers, config.stall_sec, should_stop)
        for outcome in outcomes:
            name = outcome.item[0]
            if outcome.error is not None:
                failed[name] = outcome.error
                log.warning("%s is left out: %s", name, outcome.error)
                continue
            buffer.add(outcome.result)
            made += 1
    _write_failures(config, failed)
    left = len(todo) - made - len(failed)
    if not left:
        writer.close()
    manifest = None if unfinished_shards(shards, config.shards) else _write_manifest(config)
    return VideosReport(made, len(share) - len(todo), failed, left, manifest)


def find_videos(config: VideosConfig) -> dict[str, Path]:
    """Videos to make by name, the path below the source without suffix.

    Raises:
        FileNotFoundError: The folder, or a video that `only` lists, is not there.
        ValueError: There are none, or two of one name.
    """
    if not config.source.is_dir():
        raise FileNotFoundError(f"source {config.source} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(config.source.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_dir():
            continue
        name = path.relative_to(config.source).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} have one name: keep one of them")
        found[name] = path
    if config.only is not None:
        wanted = config.only.read_text(encoding="utf-8").split()
        missing = [name for name in wanted if name not in found]
        if missing:
            listed = ", ".join(missing[:5])
            raise FileNotFoundError(
                f"{len(missing)} videos of {config.only} are not below {config.source}: {listed}"
            )
        found = {name: found[name] for name in wanted}
    if not found:
        raise ValueError(f"{config.source} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return dict(sorted(found.items())[: config.subset])


def _make(item: _Item, progress: Callable[[int], None]) -> dict[str, Any]:
    """Transcode one video; its line of the manifest."""
    name, source, config = item
    made = transcode(source, lambda chunk: _chunk_file(item, chunk), config, progress)
    return {
        KEY: name,
        "files": [path.relative_to(config.out).as_posix() for path in made.files],
        "frames": list(made.frames),
        "fps": float(made.fps),
        "height": made.size[0],
        "width": made.size[1],
        "source": source.relative_to(config.source).as_posix(),
        "source_fps": made.source_fps,
        "lost": made.lost,
        "repeated": made.repeated,
        "left_out": made.left_out,
    }


def _chunk_file(item: _Item, chunk: int) -> Path:
    name, source, config = item
    if config.layout == "file":  # EPIC's suffix is upper case
        suffix = source.suffix if source.suffix.lower() == ".mp4" else ".mp4"
        return config.out / f"{name}{suffix}"
    if config.layout == "egovlp":
        return config.out / name / f"{chunk}.mp4"
    return config.out / f"{name}.mp4" / f"{round(chunk * (config.chunk_sec or 0))}.mp4"


class _Buffer:
    """Records on their way into parts: not a file for each of many short videos."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._records: list[dict[str, Any]] = []
        self._since = time.monotonic()

    def __enter__(self) -> _Buffer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write()

    def add(self, record: dict[str, Any]) -> None:
        """Take a record; it is on disk half a minute later."""
        self._records.append(record)
        is_old = time.monotonic() - self._since > _PART_SEC
        if is_old or len(self._records) == _PART_RECORDS:
            self._write()

    def _write(self) -> None:
        self._writer.append(self._records)
        self._records, self._since = [], time.monotonic()


def _claim_facts(config: VideosConfig) -> None:
    """Say how this folder's chunks are made, or refuse to mix two ways."""
    path, facts = config.out / _FACTS, config.facts()
    if not path.exists():
        with replacing(path) as file:
            json.dump(facts, file, indent=1)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    differing = [f"{k} {there.get(k)}, asked {v}" for k, v in facts.items() if there.get(k) != v]
    if differing:
        raise ValueError(
            f"{config.out} holds chunks made otherwise ({'; '.join(differing)}): "
            "ask for the same, or for another out="
        )


def _write_failures(config: VideosConfig, failed: dict[str, str]) -> None:
    path = config.out / _SHARDS / f"failed-{config.shard:05d}-of-{config.shards:05d}.json"
    with replacing(path) as file:
        json.dump(failed, file, indent=1)


def _write_manifest(config: VideosConfig) -> Path:
    """Put all shares together; several that end at once write the same."""
    shards = config.out / _SHARDS
    records = sorted(read_shards(shards), key=lambda record: record[KEY])
    made = {record[KEY] for record in records}
    failed: dict[str, str] = {}
    for path in sorted(shards.glob(f"failed-*-of-{config.shards:05d}.json")):
        failed |= json.loads(path.read_text(encoding="utf-8"))
    rows = [{KEY: name, "error": error} for name, error in failed.items() if name not in made]
    for name, lines in ((MANIFEST, records), (FAILED, rows)):
        with replacing(config.out / name) as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return config.out / MANIFEST


def with_rank(config: VideosConfig, rank: int, world_size: int) -> VideosConfig:
    """The share of one of several processes of a task."""
    return dataclasses.replace(
        config, shard=config.shard * world_size + rank, shards=config.shards * world_size
    )
