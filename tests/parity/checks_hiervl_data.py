"""HierVL's long-video clips, narration sampling, readers, collation, metrics and EPIC frames."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.data.collate import collate
from egovl.data.configs import ChunkedVideoConfig
from egovl.data.datasets.long_video import PUBLISHED_WRAP_SEC, spread_clips
from egovl.data.datasets.long_video_configs import SpreadConfig
from egovl.data.datasets.summaries import choose_narrations
from egovl.data.image_reader import read_image
from egovl.data.sampling import (
    VideoFacts,
    place_range_frames,
    range_frame_ids,
    wrapped_position,
)
from egovl.data.transforms import bgr_of
from egovl.data.types import Sample, Span, VideoSource
from egovl.metrics.choice import choice_accuracy
from egovl.metrics.classification import topk_accuracy
from egovl.recipe import load_recipe
from tests.architecture.source import ROOT
from tests.parity.golden import GoldenCase

Entry = Mapping[str, Any]


def check_data(case: GoldenCase) -> None:
    """Every block of the file that is there."""
    golden = case.json
    for i, entry in enumerate(golden.get("stacked_clip_times") or []):
        _check_clip_times(case, f"stacked_clip_times[{i}]", entry)
    for i, entry in enumerate(golden.get("stacked_captions") or []):
        _check_captions(case, f"stacked_captions[{i}]", entry)
    for i, entry in enumerate(golden.get("howto100m") or []):
        _check_howto100m(case, f"howto100m[{i}]", entry)
    if golden.get("custom_collate"):
        _check_collate(case)
    if golden.get("split_files"):
        _check_split_files(case)
    _check_metrics(case)
    _check_epic(case)


def _check_clip_times(case: GoldenCase, label: str, entry: Entry) -> None:
    options = case.json["stacked_clip_options"]
    spread = SpreadConfig(num_clips=options["clips"], legacy_backwards=True)
    own = spread_clips(entry["clip_start"], entry["clip_end"], spread)
    case.close(f"{label} clips", own, entry["clips"], "M")
    chunk_sec = float(options["chunk_sec"])
    videos = ChunkedVideoConfig(video_root=Path(options["data_dir"]), chunk_sec=chunk_sec)
    source = videos.source(options["video_uid"])
    ends = [(source.chunk_of(start), source.chunk_of(end)) for start, end in own]
    if "files" in entry:
        files = [[str(source.chunk_file(chunk)) for chunk in pair] for pair in ends]
        case.exact(f"{label} files", files, entry["files"])
    if "bound_sec" in entry:
        bounds = [chunk_sec * (first + 1) for first, _ in ends]
        case.exact(f"{label} bound_sec", bounds, entry["bound_sec"])


def _check_captions(case: GoldenCase, label: str, entry: Entry) -> None:
    numbers = random.Random(entry["seed"])
    narrations, summary = entry["narrations"], entry["summary"]
    count = len(entry["out"])
    places = choose_narrations(
        entry["n_narrations"], count, lambda n, k: numbers.sample(range(n), k)
    )

    def picked(of_narrations: Sequence[Any], of_summary: object) -> list[Any]:
        return [of_narrations[i] for i in places] if places else [of_summary] * count

    own = picked(narrations["clip_text"], summary["clip_text"])
    case.exact(f"{label} out", own, entry["out"])
    for kind in ("noun", "verb"):
        if f"{kind}_idx" in entry:
            tags = picked(narrations[f"tag_{kind}"], summary[f"tag_{kind}"])
            own_tags = [sorted(set(one)) for one in tags]
            golden = [sorted(set(one)) for one in entry[f"{kind}_idx"]]
            case.exact(f"{label} {kind}", own_tags, golden)


def _check_howto100m(case: GoldenCase, label: str, entry: Entry) -> None:
    assert entry["sample"] == "uniform", entry
    fps, count = entry["fps"], entry["num_frames"]
    ids = range_frame_ids(int(fps * entry["start"]), int(fps * entry["end"]), count, legacy=True)
    if "returned_index" in entry:
        case.exact(f"{label} returned_index", ids, entry["returned_index"])
    source = VideoSource(
        path=Path("v"), fps=fps, seek_offset=-1, legacy_wrap_sec=PUBLISHED_WRAP_SEC
    )
    places = place_range_frames(
        source,
        Span(entry["start"], entry["end"]),
        count,
        lambda _: VideoFacts(entry["vlen"], fps),
        legacy=True,
    )
    if "seeks_set_pos" in entry:
        video = VideoFacts(entry["vlen"], fps)
        own = [wrapped_position(i, source, video) for i in ids]
        golden = [float(position) for _, position in entry["seeks_set_pos"]]
        case.close(f"{label} seeks", own, golden, "M")
        case.exact(f"{label} places", [frame for _, frame in places], [int(x) for x in golden])


def _check_collate(case: GoldenCase) -> None:
    golden, items = case.json["custom_collate"], case.json["custom_collate_inputs"]
    seen: list[list[str]] = []

    def tokenizer(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        seen.append(list(texts))
        shape = len(texts), 1
        return torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool)

    def filled(item: Entry) -> Tensor:
        return torch.full(item["shape"], item["fill"])

    vectors = [
        name for name in items[0] if name.endswith("_vec") and len(items[0][name]["shape"]) == 1
    ]
    samples = [
        Sample(
            index=i,
            clips=(),
            texts=(item["text"],),
            labels={name: filled(item[name]).tolist() for name in vectors},
            children=tuple(item.get("aggregated_text", ())),
        )
        for i, item in enumerate(items)
    ]
    videos = [list(filled(item["video"])) for item in items]
    batch = collate(samples, videos, [item["text"] for item in items], tokenizer, {})
    assert batch.video is not None
    case.exact("collate video", list(batch.video.flatten(0, 1).shape), golden["video"])
    case.exact("collate text", seen[0], golden["text"])
    if "aggregated_text" in golden:
        case.exact("collate aggregated_text", seen[1], golden["aggregated_text"])
    for name in (n for n in vectors if n in golden):
        case.exact(f"collate {name}", list(batch.labels[name].shape), golden[name])


def _check_split_files(case: GoldenCase) -> None:
    recipe = load_recipe(ROOT / "configs/hiervl/pretrain.yaml")
    assert recipe.train is not None and recipe.train.parents is not None
    own = {
        "train": recipe.train.parents.dataset.annotations.name,
        "val": recipe.evaluate["summary_mcq"].dataset.annotations.name,
        "test": recipe.evaluate["egomcq"].dataset.annotations.name,
    }
    for split, name in case.json["split_files"].items():
        case.exact(f"split_files {split}", own[split], name)


def _check_metrics(case: GoldenCase) -> None:
    golden, inputs = case.json, case.group("inputs")
    if golden.get("egomcq_default_groups"):
        own = choice_accuracy(
            inputs["preds"],
            inputs["labels"],
            inputs["types"],
            names=("Inter-video", "Intra-video"),
        )
        _check_scores(case, "egomcq", own, golden["egomcq_default_groups"])
    if golden.get("summarymcq"):
        own = choice_accuracy(
            inputs["preds"],
            inputs["labels"],
            torch.full_like(inputs["labels"], 3),
            names=("SummaryMCQ",),
        )
        _check_scores(case, "summarymcq", own, golden["summarymcq"])
    if golden.get("ht100m"):
        top1 = topk_accuracy(inputs["preds"], inputs["labels"])["top1"]
        _check_scores(case, "ht100m", {"accuracy": top1}, golden["ht100m"])


def _check_scores(
    case: GoldenCase, label: str, own: Mapping[str, float], golden: Mapping[str, float]
) -> None:
    assert set(own) == set(golden), f"{label}: {sorted(own)} is not {sorted(golden)}"
    for name, value in golden.items():
        case.close(f"{label} {name}", own[name], value, "M")


def _check_epic(case: GoldenCase) -> None:
    options = case.json.get("epic") or {}
    if "epic_frame_index_for_start3_stop5" in case.json and options:
        bounds = options["start_frame"], options["stop_frame"]
        own = range_frame_ids(*bounds, options["num_frames"], legacy=True)
        case.exact("epic frames", own, case.json["epic_frame_index_for_start3_stop5"])
    if "inputs/epic_jpeg_bytes" not in case.tensors:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame_0000000003.jpg"
        file.write_bytes(bytes(case.tensors["inputs/epic_jpeg_bytes"].tolist()))
        pixels = torch.from_numpy(read_image(file).copy()).permute(2, 0, 1)[:, None] / 255
    frames = {
        "epic_frame_egovlp_TCHW": pixels,
        "epic_frame_hiervl_TCHW": bgr_of(pixels),
    }
    for name, own_CTHW in frames.items():
        if (golden := case.tensors.get(f"outputs/{name}")) is not None:
            # decoders differ by up to two grey levels
            worst = (own_CTHW.transpose(0, 1) - golden).abs().max().item()
            assert worst <= 2 / 255, f"{name}: off by {worst * 255:.1f} grey levels"
            case.checked.append(name)
