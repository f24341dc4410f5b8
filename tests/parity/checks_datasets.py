"""Parity of annotation readers: parsed rows, clips, frames, label spaces, conversions."""

from __future__ import annotations

import csv
import io
import math
import pickle
import random
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.collate import pick_text
from egovl.data.configs import LoaderConfig
from egovl.data.datasets.configs import (
    CharadesEgoConfig,
    EGTEAConfig,
    EpicClassificationConfig,
    NarrationsConfig,
)
from egovl.data.datasets.episodic import dense_frame_ids
from egovl.data.datasets.state_change import nearest_place
from egovl.data.label_space import charades_classes, egtea_actions, epic_actions
from egovl.data.prepare.charades import write_metadata
from egovl.data.prepare.chunk_plan import plan_pieces
from egovl.data.sampling import (
    VideoFacts,
    frame_bounds,
    keyframe_ids,
    place_range_frames,
    range_frame_ids,
    whole_file_range,
)
from egovl.data.types import Sample, Span, VideoSource
from egovl.tasks.dense_features import cut_windows, encode_windows
from tests.parity.golden import GoldenCase

Entries = Mapping[str, Any]


class StandInReaders:
    """Videos of given length and rate; a picture is ``[video id, frame]``, black is zeros."""

    def __init__(self, root: Path, videos: Mapping[str, Entries]) -> None:
        self._videos = {root / name: video for name, video in videos.items()}

    def facts(self, path: Path) -> VideoFacts:
        return VideoFacts(self._videos[path]["frames"], self._videos[path]["fps"])

    def read(self, path: Path, frames: Sequence[int]) -> np.ndarray:
        return np.array([[self._videos[path]["id"], frame] for frame in frames])


def check_datasets(case: GoldenCase) -> None:
    """lavila ``sampling``, block ``datasets``: rows and clips of four annotation formats."""
    entries = case.json.get("datasets") or {}
    inputs = entries.get("_inputs") or {}
    for name, options in (inputs.get("options") or {}).items():
        if name in entries:
            with tempfile.TemporaryDirectory() as scratch:
                kind = _DATASETS[options["dataset"]](Path(scratch), inputs, options)
                _check_dataset(case, f"datasets/{name}", kind, options, entries[name])


class Kind:
    """A dataset over files written from the golden rows, and what the golden says of it."""

    def __init__(self, root: Path, dataset: Any, videos: Mapping[str, Entries]) -> None:
        self.root, self.dataset = root, dataset
        self.readers = StandInReaders(root, videos)
        for name in videos:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    def row(self, index: int) -> list[Any]:
        """File and frames of a sample, then its labels as published."""
        (clip,) = self.dataset[index].clips
        file = clip.video.chunk_file(0)
        facts = self.readers.facts(file)
        start, end = 0, facts.num_frames
        if not math.isinf(clip.span.end_sec):
            start, end = frame_bounds(clip.video, clip.span, facts.fps)
        return [str(file.relative_to(self.root)), start, end, *self.labels(self.dataset[index])]

    def labels(self, sample: Sample) -> list[Any]:
        raise AssertionError("this dataset has no stored rows")

    def label(self, sample: Sample) -> Any:
        return self.labels(sample)[0]


class EpicKind(Kind):
    def labels(self, sample: Sample) -> list[Any]:
        return [sample.texts[0], sample.labels["verb"], sample.labels["noun"]]

    def label(self, sample: Sample) -> Any:
        return f"{sample.labels['verb']}:{sample.labels['noun']}"


class CharadesKind(Kind):
    def labels(self, sample: Sample) -> list[Any]:
        found = sample.labels["action"]
        if isinstance(found, int):
            return [f"c{found:03d}"]
        return [[f"c{number:03d}" for number in found]]  # type: ignore[union-attr]


class EgteaKind(Kind):
    def labels(self, sample: Sample) -> list[Any]:
        return [sample.texts[0]]


def _epic(root: Path, inputs: Entries, options: Entries) -> Kind:
    path = root / "EPIC.csv"
    _write_csv(path, [inputs["ek100_header"], *inputs["ek100_rows"]])
    config = EpicClassificationConfig(annotations=path, video_root=root, action_tables=(path,))
    return EpicKind(root, config.build(), inputs["videos"]["ek100_cls"])


def _charades(root: Path, inputs: Entries, options: Entries) -> Kind:
    _write_csv(root / "charades.csv", [inputs["charades_header"], *inputs["charades_rows"]])
    classes = "".join(f"c{number:03d} class {number}\n" for number in range(157))
    (root / "classes.txt").write_text(classes)
    config = CharadesEgoConfig(
        annotations=root / "charades.csv",
        classes=root / "classes.txt",
        video_root=root,
        unit="action" if options["is_trimmed"] else "video",
        legacy_length=True,
    )
    return CharadesKind(root, config.build(), inputs["videos"]["charades_ego"])


def _egtea(root: Path, inputs: Entries, options: Entries) -> Kind:
    (root / "action_idx.txt").write_text("\n".join(inputs["egtea_action_idx"]))
    (root / "split.txt").write_text("\n".join(inputs["egtea_split"]))
    config = EGTEAConfig(
        annotations=root / "split.txt", classes=root / "action_idx.txt", video_root=root
    )
    return EgteaKind(root, config.build(), inputs["videos"]["egtea"])


def _ego4d(root: Path, inputs: Entries, options: Entries) -> Kind:
    (root / "list.pkl").write_bytes(pickle.dumps([tuple(row) for row in inputs["ego4d_rows"]]))
    config = NarrationsConfig(
        annotations=(root / "list.pkl",),
        video_root=root,
        layout="lavila",
        selection=options.get("narration_selection", "random"),
        legacy_outside=True,
    )
    return Kind(root, config.build(), inputs["videos"]["ego4d"])


_DATASETS = {"ek100_cls": _epic, "charades_ego": _charades, "egtea": _egtea, "ego4d": _ego4d}


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _check_dataset(case: GoldenCase, label: str, kind: Kind, options: Entries, golden: Any) -> None:
    if "item" not in options:
        rows = [kind.row(index) for index in range(len(kind.dataset))]
        case.exact(
            f"{label} names", [_unnumbered(r) for r in rows], [_unnumbered(r) for r in golden]
        )
        case.close(f"{label} frames", [r[1:3] for r in rows], [r[1:3] for r in golden], "M")
        return
    sample = kind.dataset[options["item"]]
    if "draws" in options:
        draw = random.Random(options["python_seed"]).randint
        case.exact(label, [pick_text(sample.texts, draw) for _ in range(options["draws"])], golden)
    elif isinstance(golden, str):
        case.exact(label, sample.texts[0], golden)
    else:
        named = len(golden) == 2 and isinstance(golden[0][0], list)
        frames = _two_bytes(golden[0] if named else golden)
        case.exact(f"{label} frames", _two_bytes(_read(kind, sample, options)), frames)
        if named:
            case.exact(f"{label} label", kind.label(sample), golden[1])


def _two_bytes(frames: Sequence[Sequence[int]]) -> list[list[int]]:
    """The pictures behind the stored ids hold a frame's number in two bytes."""
    return [[video, frame % 65536] for video, frame in frames]


def _unnumbered(row: Sequence[Any]) -> list[Any]:
    return [row[0], *row[3:]]


def _read(kind: Kind, sample: Sample, options: Entries) -> list[list[int]]:
    assert not options.get("is_training")
    is_dense = options["dataset"] == "egtea" or options.get("sparse_sample") is False
    config = LoaderConfig(
        num_frames=options["clip_length"],
        num_clips=options.get("num_clips", 1),
        stride=options.get("clip_stride", 1),
        sampling="window" if is_dense else "segment",
        legacy_windows=True,
    )
    reader = ClipReader(config)
    reader.readers = kind.readers  # type: ignore[assignment]
    (frames,) = reader.read([ClipRequest(sample.clips[0], None)])
    assert isinstance(frames, np.ndarray), frames
    return frames.tolist()


def check_charades_reader(case: GoldenCase, label: str, entry: Entries) -> None:
    """egovlp ``frame_sampling``: indices and seeks of the Charades-Ego reader."""
    (name,) = entry["lens"] or {"v.mp4": 0}
    rate = entry["fps"].get(name, case.json["reader_options"]["default_fps"])
    count = entry["lens"].get(name, case.json["reader_options"]["default_frame_count"])
    video = VideoFacts(count, rate)
    source = VideoSource(path=Path(name), fps=None, seek_offset=-1)
    is_whole = not entry["start"] and not entry["end"]
    span = Span(0.0, math.inf) if is_whole else Span(entry["start"] or 0.0, entry["end"])
    bounds = whole_file_range(source, span, video)
    ids = range_frame_ids(*bounds, entry["num_frames"], legacy=True)
    places = place_range_frames(source, span, entry["num_frames"], lambda _: video, legacy=True)
    case.exact(f"{label} index", ids, entry["returned_index"])
    seeks = [[source.chunk_file(chunk).name, float(frame)] for chunk, frame in places]
    case.exact(f"{label} seeks", seeks[: len(ids)], entry["seeks_set_pos"])


def check_oscc_frames(case: GoldenCase) -> None:
    """egovlp ``frame_sampling``: frames of a state change, and the place of the keyframe."""
    count = (case.json.get("oscc_options") or {}).get("num_frames", 16)
    for i, entry in enumerate(case.json.get("oscc_sample_frames") or []):
        label = f"oscc_sample_frames[{i}]"
        if "error" in entry:
            case.raises(label, lambda e=entry: keyframe_ids(e["start"], e["end"], count))
            continue
        frames = keyframe_ids(entry["start"], entry["end"], count)
        case.exact(f"{label} frames", frames, entry["frames"])
        if entry.get("label") is not None:
            case.exact(f"{label} label", nearest_place(frames, entry["pnr"]), entry["label"])
            distance = [abs(frame - entry["pnr"]) for frame in frames]
            case.close(f"{label} abs_dist", distance, entry["abs_dist"], "M")


def check_charades_meta(case: GoldenCase) -> None:
    """egovlp ``charades_meta``: the released csv as a table of actions."""
    golden = case.json
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "in.csv").write_text(golden["input_csv"])
        (folder / "classes.txt").write_text("\n".join(golden["classes_txt"]))
        count = write_metadata(folder / "in.csv", folder / "classes.txt", folder / "out.tsv")
        text = (folder / "out.tsv").read_text()
    case.exact("output_tsv", _rows(text), _rows(golden["output_tsv"]))
    case.exact("count", count, len(_rows(golden["output_tsv"])) - 1)


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter="\t"))


def check_video_chunk(case: GoldenCase) -> None:
    """egovlp ``video_chunk``: the pieces behind the published ffmpeg commands."""
    for i, entry in enumerate(case.json.get("cases") or []):
        pieces = plan_pieces(entry["duration"], legacy_extra=True)
        fixed = plan_pieces(entry["duration"])
        assert all(piece.start_sec < piece.end_sec for piece in fixed)
        if entry["copies"]:
            names = [Path(target).name for _, target in entry["copies"]]
            case.exact(f"cases[{i}] copies", [f"{piece.number}.mp4" for piece in pieces], names)
            continue
        golden = [_piece_of(command) for command in entry["commands"]]
        found = [[f"{p.number}.mp4", p.start_sec, p.end_sec] for p in pieces]
        case.exact(f"cases[{i}] names", [p[0] for p in found], [p[0] for p in golden])
        case.close(f"cases[{i}] sec", [p[1:] for p in found], [p[1:] for p in golden], "M")


def _piece_of(command: str) -> list[Any]:
    words = shlex.split(command)
    start, end = (float(words[words.index(flag) + 1]) for flag in ("-ss", "-to"))
    return [Path(words[-1]).name, start, end]


def check_dense_features(case: GoldenCase) -> None:
    """egovlp ``dense_features``: frames, windows and the rows that stay zero."""
    golden, inputs = case.json, case.group("inputs")
    size, weights = golden["num_frame"], case.group("weights")
    for i, entry in enumerate(golden.get("clips") or []):
        ids = dense_frame_ids(entry["start"], entry["end"], entry["vlen"], entry["acc_samples"])
        case.exact(f"clips[{i}] frame_index", ids, entry["frame_index"])
        samples = (entry["end"] - entry["start"]) * golden["fps"] * size + 1
        case.close(f"clips[{i}] acc_samples", samples, entry["acc_samples"], "M")
        stored = case.tensors.get(f"outputs/features{i}")
        if stored is None:
            continue
        windows = cut_windows(inputs[f"video{i}"][0], size)

        def encode(part: Tensor) -> Tensor:
            flat = part.flatten(1) @ next(w for w in weights.values() if w.ndim == 2).T
            return flat + next((w for w in weights.values() if w.ndim == 1), 0)

        features = encode_windows(encode, windows, legacy_zero_tail=True)
        case.close(f"features{i}", features, stored, "F")
        case.exact(f"clips[{i}] rows", len(features), entry["rows"])
        zero = int((features == 0).all(dim=1).sum())
        case.exact(f"clips[{i}] zero_rows", zero, entry["zero_rows"])
        assert not (encode_windows(encode, windows) == 0).all(dim=1).any()


def check_label_maps(case: GoldenCase) -> None:
    """lavila ``label_maps``: classes in their released order, and their texts."""
    golden, inputs = case.json, case.json.get("inputs") or {}
    spaces = {}
    if "charades_classes" in inputs:
        spaces["charades_ego"] = charades_classes(inputs["charades_classes"])
    if "egtea" in inputs:
        spaces["egtea"] = egtea_actions(inputs["egtea"])
    if "train" in inputs:
        rows = [*inputs["train"], *inputs.get("val", [])]
        spaces["ek100_cls"] = epic_actions((int(v), int(n), text) for v, n, text in rows)
    for name, space in spaces.items():
        stored = golden.get(name)
        if stored is None:
            continue
        case.exact(f"{name} map", space.numbers, stored["map"])
        labels = [sorted(x) if isinstance(x, list) else [x] for x in stored["labels"]]
        case.exact(f"{name} labels", [list(texts) for texts in space.texts], labels)
