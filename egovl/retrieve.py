"""``python -m egovl retrieve``: for every ego clip the instructional clips that show the same.

Stage 6 of Egoinstructor, whose script was never published. Clips of both views are embedded by the
retriever, and for each ego clip the nearest distinct exo clips are kept in rank order. Shards of an
array each take a share of the ego clips; ``--merge`` then writes both files that the captioner
reads.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egovl.shards import ShardWriter, read_shards, share_of, unfinished_shards

if TYPE_CHECKING:
    from torch import Tensor

    from egovl.data.view_pairs import ViewClip
    from egovl.models.retriever import ViewRetriever
    from egovl.work import Done

logger = logging.getLogger(__name__)

INSTRUCTION = "Describe the main action in the video."
_BATCH = 256
_APPENDED = 2048  # ego clips between two parts of a shard

_EPILOG = """\
examples:
  python -m egovl retrieve --checkpoint runs/retriever --ego ego.json --exo exo.json \\
      --ego-features features_ego --exo-features features_exo --out supports --shard 0/8
  python -m egovl retrieve --ego ego.json --exo exo.json --out supports --merge E4DOL_train
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, text in (
        ("--ego", "json of the ego clips, keys from 0"),
        ("--exo", "json of the instructional clips"),
        ("--out", "folder of the shards, and of the merged files"),
    ):
        parser.add_argument(name, type=Path, required=True, help=text)
    parser.add_argument("--checkpoint", type=Path, help="run folder or file of a retriever")
    parser.add_argument("--ego-features", type=Path, help="store of the ego view's features")
    parser.add_argument("--exo-features", type=Path, help="store of the other view's")
    parser.add_argument("--top", type=int, default=15, help="supports of a clip (default 15)")
    parser.add_argument("--frames", type=int, default=32, help="features of a clip (default 32)")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="share of the ego clips")
    parser.add_argument(
        "--seconds-per-feature",
        type=float,
        default=1.0,
        help="what the clips' times count, in seconds; the merged files are in seconds",
    )
    parser.add_argument(
        "--merge", metavar="NAME", help="write NAME_instructions.json and NAME_config.json"
    )
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    from egovl.work import run_work  # torch only when it is needed

    return run_work(lambda: _merge(args) if args.merge else _search(args))


def _search(args: argparse.Namespace) -> Done:
    from egovl.data.datasets.view_pairs import load_view_clips
    from egovl.models.retrieval_index import RetrievalIndex, distinct
    from egovl.models.retriever import ViewRetriever
    from egovl.trained import load_trained
    from egovl.work import Done, report_progress

    missing = [n for n in ("checkpoint", "ego_features", "exo_features") if not getattr(args, n)]
    if missing:
        named = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(f"{named}: needed to search (only --merge does without)")
    shard, count = _shard(args.shard)
    ego, exo = load_view_clips(args.ego, is_exo=False), load_view_clips(args.exo, is_exo=True)
    keys = distinct([(clip.video, clip.span_sec) for clip in exo])
    if len(keys) < args.top:
        raise ValueError(f"{args.exo} has {len(keys)} distinct clips, fewer than --top {args.top}")
    writer = ShardWriter(args.out, shard, count)
    done = writer.finished_keys()
    mine = [i for i in share_of(range(len(ego)), shard, count) if str(i) not in done]
    if mine:
        model = load_trained(args.checkpoint, ViewRetriever)
        embedded = _embed(model, [exo[i] for i in keys], args.exo_features, args.frames)
        index = RetrievalIndex(embedded)
        for start in range(0, len(mine), _APPENDED):
            rows = mine[start : start + _APPENDED]
            queries = _embed(model, [ego[i] for i in rows], args.ego_features, args.frames)
            scores, found = index.search(queries, args.top)
            writer.append(
                [
                    {
                        "key": str(row),
                        "supports": [keys[i] for i in places],
                        "scores": [round(score, 5) for score in values],
                    }
                    for row, places, values in zip(
                        rows, found.tolist(), scores.tolist(), strict=True
                    )
                ]
            )
            report_progress(start + len(rows))
    writer.close()
    logger.info("%s: shard %d of %d, %d clips searched for", args.out, shard, count, len(mine))
    return Done(is_whole=True, metrics={"searched": float(len(mine))})


def _shard(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise ValueError(f"--shard {text!r} is no I/N with I below N, as 0/8")
    return int(first), int(second)


def _embed(model: ViewRetriever, clips: Sequence[ViewClip], store: Path, frames: int) -> Tensor:
    """Embeddings ``[N, P]`` of length 1, on the GPU if there is one."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    parts = []
    with torch.no_grad():
        for features in _features(clips, store, frames):
            parts.append(model.encode_video(features.to(device), normalize=True))
    return torch.cat(parts)


def _features(clips: Sequence[ViewClip], store: Path, frames: int) -> Iterator[Tensor]:
    import torch

    from egovl.data.datasets.second_features import SecondFeatures
    from egovl.data.second_sampling import evaluation_seconds

    features = SecondFeatures(store)
    for start in range(0, len(clips), _BATCH):
        rows = []
        for clip in clips[start : start + _BATCH]:
            seconds = evaluation_seconds(clip.span_sec, frames, features.length(clip.video))
            rows.append(features.rows(clip.video, seconds))
        yield torch.stack(rows)


def _merge(args: argparse.Namespace) -> Done:
    """Both files of the captioner, an ego clip and its supports side by side (spec 3.2)."""
    from egovl.atomic import replacing
    from egovl.data.datasets.view_pairs import load_view_clips
    from egovl.work import Done

    _, count = _shard(args.shard)
    unfinished = unfinished_shards(args.out, count) if args.shard != "0/1" else []
    if unfinished:
        raise ValueError(f"{args.out}: shards {unfinished} of {count} are not finished")
    ego, exo = load_view_clips(args.ego, is_exo=False), load_view_clips(args.exo, is_exo=True)
    found = {int(record["key"]): record["supports"] for record in read_shards(args.out)}
    lacking = sorted(set(range(len(ego))) - set(found))
    if lacking:
        raise ValueError(
            f"{args.out} lacks {len(lacking)} of {len(ego)} ego clips, {lacking[0]} first"
        )
    family = f"{args.merge.partition('_')[0]}_INS"
    records: dict[str, Any] = {}
    supports: dict[str, list[str]] = {}
    for number in sorted(found):
        key = f"{family}_{len(records):06d}"
        records[key] = _record(ego[number], args.seconds_per_feature)
        supports[key] = []
        for place in found[number]:
            name = f"{family}_{len(records):06d}"
            records[name] = _record(exo[place], args.seconds_per_feature)
            supports[key].append(name)
        records[key]["rel_ins_ids"] = supports[key]
    contents = {"instructions": {"data": records}, "config": supports}
    for kind, content in contents.items():
        with replacing(args.out / f"{args.merge}_{kind}.json") as file:
            json.dump(content, file)
    videos = sorted(
        {clip.video for clip in ego} | {exo[i].video for f in found.values() for i in f}
    )
    with replacing(args.out / f"{args.merge}_videos.txt") as file:
        file.writelines(f"{video}\n" for video in videos)
    logger.info("%s: %d ego clips, %d videos needed", args.out, len(ego), len(videos))
    return Done(is_whole=True, metrics={"clips": float(len(ego)), "videos": float(len(videos))})


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
