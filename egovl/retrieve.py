"""``python -m egovl retrieve``: for every ego clip the instructional clips that show the same.

Stage 6 of Egoinstructor, whose script was never published. Clips of both views are embedded by the
retriever, and for each ego clip the nearest distinct exo clips are kept in rank order: a recipe's
``supports:`` section. Shards of an array each take a share of the ego clips; the last one writes
both files that the captioner reads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl import config as configuration
from egovl.atomic import replacing
from egovl.data.datasets.second_features import SecondFeatures
from egovl.data.datasets.view_configs import SupportsConfig
from egovl.data.datasets.view_pairs import load_view_clips
from egovl.data.second_sampling import evaluation_seconds
from egovl.data.view_pairs import ViewClip
from egovl.extract import own_device
from egovl.models.retrieval_index import RetrievalIndex, distinct
from egovl.models.retriever import ViewRetriever
from egovl.narration.job import claim_folder
from egovl.recipe import Recipe, input_hashes
from egovl.run import initialize, newest_checkpoint
from egovl.shards import ShardWriter, read_shards, share_of, unfinished_shards
from egovl.work import Done, rank_of, report_progress

logger = logging.getLogger(__name__)

INSTRUCTION = "Describe the main action in the video."
_BATCH = 256
_APPENDED = 2048  # ego clips between two parts of a shard
_SEARCHED = ("ego", "exo", "ego_features", "exo_features", "top", "frames")


def retrieve(recipe: Recipe, should_stop: Callable[[], bool] = lambda: False) -> Done:
    """Search for this process's share of the ego clips; whoever ends last writes the files.

    Raises:
        ValueError: no section, another kind of model, too few exo clips, or a folder of other ones.
    """
    config = recipe.supports
    if config is None:
        raise ValueError("the recipe has no supports: section")
    ego, exo = load_view_clips(config.ego, is_exo=False), load_view_clips(config.exo, is_exo=True)
    keys = distinct([(clip.video, clip.span_sec) for clip in exo])
    if len(keys) < config.top:
        raise ValueError(f"{config.exo} has {len(keys)} distinct clips, fewer than {config.top}")
    hashes = input_hashes(recipe, newest_checkpoint)
    config.out.mkdir(parents=True, exist_ok=True)
    claim_folder(config.out, _settings(recipe, config, hashes))
    rank, world_size = rank_of()
    number, count = config.shard * world_size + rank, config.shards * world_size
    writer = ShardWriter(config.out, number, count)
    done = writer.finished_keys()
    mine = [i for i in share_of(range(len(ego)), number, count) if str(i) not in done]
    if mine:
        embed = _Embedder(_retriever(recipe), config.frames, should_stop)
        keys_ND = embed([exo[i] for i in keys], config.exo_features)
        index = None if keys_ND is None else RetrievalIndex(keys_ND)
        for start in range(0, len(mine), _APPENDED):
            rows = mine[start : start + _APPENDED]
            queries = embed([ego[i] for i in rows], config.ego_features)
            if index is None or queries is None:
                return Done(is_whole=False)
            writer.append(_found(index, queries, rows, keys, config.top))
    writer.close()
    logger.info("%s: shard %d of %d, %d clips searched for", config.out, number, count, len(mine))
    metrics = {"searched": float(len(mine))}
    if unfinished_shards(config.out, count):
        logger.info("%s: other shards are still being written", config.out)
    else:
        metrics |= _merge(config, ego, exo)
    return Done(is_whole=True, metrics=metrics, inputs=hashes)


def _settings(recipe: Recipe, config: SupportsConfig, hashes: dict[str, str]) -> dict[str, Any]:
    """What must be the same for all shards of a folder."""
    plain = configuration.plain(config)
    weights = hashes.get("init.file", f"random, seed {recipe.seed}")
    return {name: plain[name] for name in _SEARCHED} | {"checkpoint": weights}


def _retriever(recipe: Recipe) -> ViewRetriever:
    torch.manual_seed(recipe.seed)  # random weights, if any, are those of every other shard
    model = recipe.model.build()
    if not isinstance(model, ViewRetriever):
        raise ValueError(f"model.name is {recipe.model.name}; supports: need a view_retriever")
    if recipe.init is None:
        logger.warning("no init: in the recipe: searching with random weights")
    initialize(model, recipe)
    return model.eval()


class _Embedder:
    """Clips to embeddings of length 1, as long as nobody asks to stop."""

    def __init__(self, model: ViewRetriever, frames: int, should_stop: Callable[[], bool]) -> None:
        self._device = own_device()
        self._model = model.to(self._device)
        self._frames, self._should_stop = frames, should_stop
        self._batches = 0

    @torch.no_grad()
    def __call__(self, clips: Sequence[ViewClip], store: Path) -> Tensor | None:
        """Embeddings ``[N, P]``; None where a stop was asked for."""
        parts = []
        for features in _features(clips, store, self._frames):
            if self._should_stop():
                return None
            parts.append(self._model.encode_video(features.to(self._device), normalize=True))
            self._batches += 1
            report_progress(self._batches)
        return torch.cat(parts)


def _found(
    index: RetrievalIndex, queries: Tensor, rows: Sequence[int], keys: Sequence[int], top: int
) -> list[dict[str, Any]]:
    """Records of a shard."""
    scores, found = index.search(queries, top)
    return [
        {
            "key": str(row),
            "supports": [keys[i] for i in places],
            "scores": [round(score, 5) for score in values],
        }
        for row, places, values in zip(rows, found.tolist(), scores.tolist(), strict=True)
    ]


def _features(clips: Sequence[ViewClip], store: Path, frames: int) -> Iterator[Tensor]:
    features = SecondFeatures(store)
    for start in range(0, len(clips), _BATCH):
        rows = []
        for clip in clips[start : start + _BATCH]:
            seconds = evaluation_seconds(clip.span_sec, frames, features.length(clip.video))
            rows.append(features.rows(clip.video, seconds))
        yield torch.stack(rows)


def _merge(
    config: SupportsConfig, ego: Sequence[ViewClip], exo: Sequence[ViewClip]
) -> dict[str, float]:
    """Both files of the captioner, an ego clip and its supports side by side (spec 3.2)."""
    found = {int(record["key"]): record["supports"] for record in read_shards(config.out)}
    lacking = sorted(set(range(len(ego))) - set(found))
    if lacking:
        raise ValueError(
            f"{config.out} lacks {len(lacking)} of {len(ego)} ego clips, {lacking[0]} first"
        )
    family = f"{config.files.partition('_')[0]}_INS"
    records: dict[str, Any] = {}
    supports: dict[str, list[str]] = {}
    for number in sorted(found):
        key = f"{family}_{len(records):06d}"
        records[key] = _record(ego[number], config.seconds_per_feature)
        supports[key] = []
        for place in found[number]:
            name = f"{family}_{len(records):06d}"
            records[name] = _record(exo[place], config.seconds_per_feature)
            supports[key].append(name)
        records[key]["rel_ins_ids"] = supports[key]
    contents = {"instructions": {"data": records}, "config": supports}
    for kind, content in contents.items():
        with replacing(config.out / f"{config.files}_{kind}.json") as file:
            json.dump(content, file)
    videos = sorted(
        {clip.video for clip in ego} | {exo[i].video for f in found.values() for i in f}
    )
    with replacing(config.out / f"{config.files}_videos.txt") as file:
        file.writelines(f"{video}\n" for video in videos)
    logger.info("%s: %d ego clips, %d videos needed", config.out, len(ego), len(videos))
    return {"clips": float(len(ego)), "videos": float(len(videos))}


def _record(clip: ViewClip, scale: float) -> dict[str, Any]:
    answer = clip.text or ""
    place = {
        "vid": clip.video,
        "uid": clip.uid,
        "start_second": round(clip.span_sec[0] * scale, 6),
        "end_second": round(clip.span_sec[1] * scale, 6),
    }
    return {
        "instruction": INSTRUCTION,
        "answer": answer,
        "chat_answer": answer,
        "image_ids": [place],
        "rel_ins_ids": [],
    }
