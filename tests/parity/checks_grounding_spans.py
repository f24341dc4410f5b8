"""Checks of suppression, decoding, evaluation and ensembling of spans (GroundNLQ)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egovl.convert.groundnlq_config import read_decoding
from egovl.metrics.configs import SpanDecodingConfig
from egovl.metrics.span_decoding import TimeGrid, candidates, suppress, to_seconds
from egovl.metrics.span_ensemble import ensemble_spans, join_first_spans, temporal_nms
from egovl.metrics.span_nms import Decay, ScoredSpans, hard_nms, soft_nms, vote
from egovl.metrics.spans import format_table, score_spans
from tests.parity.golden import GoldenCase

Options = Mapping[str, Any]

_DECAYS: tuple[Decay, ...] = ("hard", "linear", "gaussian")


def decoding_of(test_cfg: Options) -> SpanDecodingConfig:
    return read_decoding(test_cfg)


# --- suppression --------------------------------------------------------------------------------


def check_nms(case: GoldenCase) -> None:
    """Kept indices, scores, batched runs in all modes, voting."""
    for number, options in enumerate(case.json["cases"]):
        inputs = case.group(f"inputs/{number}")
        spans, scores = inputs["segs"].numpy(), inputs["scores"].numpy()
        check_soft(case, number, options, spans, scores)
        hard = case.tensors.get(f"outputs/{number}/hard_inds")
        if hard is not None:
            # the bare algorithm; only the batched one drops low scores first
            limit = options["hard_iou_threshold"]
            kept = hard_nms(spans, scores, iou_threshold=limit, legacy_ties=True)
            case.close(f"{number} hard", torch.from_numpy(kept.places), hard, "X")
        check_vote(case, number, options, spans, scores)
        labels = inputs["labels"].numpy()
        for name in ("single", "soft_mc", "soft_agn", "hard_mc", "hard_agn"):
            check_batched(
                case, f"{number}/batched_{name}", options, ScoredSpans(spans, scores, labels)
            )
    if "empty_shapes" in case.json:
        nothing = ScoredSpans(
            np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )
        found = suppress(nothing, SpanDecodingConfig())
        shapes = [list(x.shape) for x in (found.spans, found.scores, found.labels)]
        case.exact("empty", shapes, case.json["empty_shapes"])


def check_soft(
    case: GoldenCase, number: int, options: Options, spans: np.ndarray, scores: np.ndarray
) -> None:
    golden = case.tensors.get(f"outputs/{number}/soft_inds")
    if golden is None:
        return
    kept = soft_nms(
        spans,
        scores,
        decay=_DECAYS[options["method"]],
        iou_threshold=options["iou_threshold"],
        sigma=options["sigma"],
        min_score=options["min_score"],
    )
    case.close(f"{number} soft", torch.from_numpy(kept.places), golden, "X")
    rows = np.concatenate([spans[kept.places], kept.scores[:, None]], axis=1)
    dets = case.tensors[f"outputs/{number}/soft_dets"]
    case.close(f"{number} dets", torch.from_numpy(rows), dets, "F")
    case.close(f"{number} boxes", torch.from_numpy(rows[:, :2].copy()), dets[:, :2], "X")


def check_vote(
    case: GoldenCase, number: int, options: Options, spans: np.ndarray, scores: np.ndarray
) -> None:
    golden = case.tensors.get(f"outputs/{number}/vote")
    if golden is not None:
        voted = vote(spans[: len(golden)], spans, scores, options["voting_thresh"])
        compare_voted(case, f"{number} vote", voted, golden)


def compare_voted(case: GoldenCase, label: str, own: np.ndarray, golden: Tensor) -> None:
    """Where the published mean is 0 / 0 ours is the span itself: finite, and not compared."""
    fine = ~torch.isnan(golden).any(dim=1)
    assert np.isfinite(own).all(), f"{case.name} {label}: not finite"
    case.close(label, torch.from_numpy(own)[fine], golden[fine], "F")


def check_batched(case: GoldenCase, name: str, options: Options, found: ScoredSpans) -> None:
    golden = {
        part: case.tensors.get(f"outputs/{name}_{part}") for part in ("segs", "scores", "labels")
    }
    if golden["segs"] is None:
        return
    hard = "hard" in name
    agnostic = name.endswith("agn")
    if name.endswith("single"):
        found = ScoredSpans(found.spans, found.scores, np.zeros_like(found.labels))
    config = SpanDecodingConfig(
        nms="hard" if hard else "soft",
        iou_threshold=options["hard_iou_threshold" if hard else "iou_threshold"],
        sigma=options["sigma"],
        min_score=options["min_score"],
        max_spans=options["max_seg_num"],
        per_class=not agnostic,
        voting_threshold=options["voting_thresh"],
        legacy_ties=True,
    )
    own = suppress(found, config)
    spans, scores, labels = golden["segs"], golden["scores"], golden["labels"]
    assert scores is not None
    case.close(f"{name} scores", torch.from_numpy(own.scores), scores, "F")
    if agnostic:
        compare_voted(case, f"{name} spans", own.spans, spans)
    else:
        case.close(f"{name} spans", torch.from_numpy(own.spans), spans, "X")
    if labels is not None:
        case.close(f"{name} labels", torch.from_numpy(own.labels), labels, "X")


# --- decoding -----------------------------------------------------------------------------------


def levels_of(case: GoldenCase, name: str) -> list[Tensor]:
    found: list[Tensor] = []
    while (tensor := case.tensors.get(f"inputs/{name}_{len(found)}")) is not None:
        found.append(tensor)
    return found


def check_decode(case: GoldenCase) -> None:
    """Candidates before suppression, and the final seconds of each query."""
    config = decoding_of(case.json["test_cfg"])
    facts = case.json
    grid = TimeGrid(facts["feat_stride"] / facts["fps"], facts["feat_num_frames"] / facts["fps"])
    logits, offsets, masks = (levels_of(case, n) for n in ("logits", "offsets", "mask"))
    row = 0
    found = candidates(
        [x[row] for x in logits],
        [x[row] for x in offsets],
        [x[row] > 0 for x in masks],
        levels_of(case, "points"),
        config,
    )
    final = to_seconds(suppress(found, config), grid, facts["duration"], config)
    for stage, own in (("pre_nms", found), ("final", final)):
        for part, values, tolerance in (
            ("segments", own.spans, "F"),
            ("scores", own.scores, "F"),
            ("labels", own.labels, "X"),
        ):
            golden = case.tensors.get(f"outputs/{stage}_{part}")
            if golden is not None:
                case.close(f"{stage} {part}", torch.from_numpy(values), golden, tolerance)


# --- evaluation ---------------------------------------------------------------------------------


def check_eval(case: GoldenCase) -> None:
    """Both evaluators: recalls, mean IoU, printed tables."""
    truth = {
        (clip["clip_uid"], annotation["annotation_uid"]): annotation["language_queries"]
        for video in case.json["ground_truth"]["videos"]
        for clip in video["clips"]
        for annotation in clip["annotations"]
    }
    rows = case.json["predictions"]
    most = max(len(row["predicted_times"]) for row in rows)
    spans, counts = np.zeros((len(rows), most, 2)), np.zeros(len(rows), dtype=np.int64)
    target = np.zeros((len(rows), 2))
    for place, row in enumerate(rows):
        times = row["predicted_times"]
        counts[place] = len(times)
        if times:
            spans[place, : len(times)] = [time[:2] for time in times]
        query = truth[row["clip_uid"], row["annotation_uid"]][row["query_idx"]]
        target[place] = query["clip_start_sec"], query["clip_end_sec"]
    if "num_gt_queries" in case.json.get("referring_recall", {}):
        number = sum(bool(query.get("query")) for queries in truth.values() for query in queries)
        total = sum(len(queries) for queries in truth.values())
        assert case.json["referring_recall"]["num_gt_queries"] in (number, total)
    for name in ("referring_recall", "official"):
        golden = case.json.get(name)
        if not golden:
            continue
        thresholds, ranks = golden["thresholds"], golden["topk"]
        found = score_spans(spans, counts, target, thresholds=thresholds, ranks=ranks)
        if "recall" in golden:
            case.close(f"{name} recall", found.recall, golden["recall"], "M")
        if "mIoU" in golden:
            case.close(f"{name} mIoU", found.mean_iou, golden["mIoU"], "M")
        if "per_query_top1_iou" in golden:
            case.close(f"{name} iou", found.first_iou, golden["per_query_top1_iou"], "M")
        if "table" in golden:
            has_mean = "mIoU" in golden
            table = format_table(found, thresholds, ranks, mean_iou=has_mean)
            case.exact(f"{name} table", table, golden["table"])


# --- ensemble -----------------------------------------------------------------------------------


def check_ensemble(case: GoldenCase) -> None:
    """Temporal suppression, spans joined from the models' first ones, a whole run."""
    for number, entry in enumerate(case.json.get("temporal_nms", [])):
        own = temporal_nms(entry["input"], entry["thd"], entry["max"])
        same_rows(case, f"temporal {number}", own, entry["output"])
    for number, entry in enumerate(case.json.get("top1_generator", [])):
        same_rows(case, f"joined {number}", join_first_spans(entry["input"]), entry["output"])
    run = case.json.get("ensemble")
    if not run:
        return
    models = [run[name]["results"] for name in ("first", "second", "third")]
    for place, golden in enumerate(run["output"]["results"]):
        own = ensemble_spans([model[place]["predicted_times"] for model in models])
        same_rows(case, f"ensemble {place}", own, golden["predicted_times"])


def same_rows(
    case: GoldenCase, label: str, own: Sequence[Sequence[float]], golden: Sequence[Sequence[float]]
) -> None:
    case.exact(f"{label} rows", [len(row) for row in own], [len(row) for row in golden])
    if golden:
        case.close(label, np.array(own, dtype=float), np.array(golden, dtype=float), "M")
