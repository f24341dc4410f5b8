"""Metrics of both papers, from the stored scores, and EgoVLP's whole MIR chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egovl import dist
from egovl.losses.similarity import cosine_matrix
from egovl.metrics.choice import choice_accuracy
from egovl.metrics.classification import (
    class_accuracy,
    confusion_matrix,
    label_precision,
    marginal_scores,
    topk_accuracy,
)
from egovl.metrics.keyframe import keyframe_error, state_change_accuracy
from egovl.metrics.retrieval import dual_softmax, mir_metrics, rank_queries
from tests.parity.golden import GoldenCase

Inputs = Mapping[str, Tensor]


def _arrays(case: GoldenCase) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in case.group("inputs").items()}


def check_ek100_mir(case: GoldenCase) -> None:
    """lavila ``metric_ek100_mir``: per row and mean, with rows that have nothing to find."""
    inputs = _arrays(case)
    notes = set(case.json.get("notes_only") or [])
    for name, (scores, relevancy) in (case.json.get("inputs_of") or {}).items():
        sim = (inputs["sim"] + 1) / 2 if scores == "(sim+1)/2" else inputs[scores]
        rel = inputs[relevancy]
        ranked = rank_queries(sim, rel)
        metrics = mir_metrics(sim, rel, on_empty="legacy_nan")
        ranks = np.arange(rel.shape[1])
        values = {
            "k_counts": (ranks < ranked.num_relevant[:, None]).astype(np.int64),
            "DCG": ranked.dcg,
            "IDCG": ranked.ideal_dcg,
            "nDCG_rows": ranked.ndcg,
            "nDCG_v2t_t2v_avg": _three(metrics, "nDCG"),
            "mAP_v2t_t2v_avg": _three(metrics, "mAP"),
        }
        for key, golden in case.group(f"outputs/{name}").items():
            if f"outputs/{name}/{key}" not in notes:
                case.close(f"{name}/{key}", values[key], golden, "X" if key == "k_counts" else "M")


def _three(metrics: Mapping[str, float], name: str) -> list[float]:
    return [metrics[f"{name}{suffix}"] / 100 for suffix in ("_v2t", "_t2v", "")]


def check_charades(case: GoldenCase) -> None:
    """lavila ``metric_charades``: mean, per class and weighted, with empty rows and classes."""
    inputs = _arrays(case)
    truths = {"": "gt", "_empty_class": "gt_class2_empty", "_without_row_masking": "gt"}
    for name, golden in case.group("outputs").items():
        kind = name.removeprefix("mAP").removeprefix("APs").removeprefix("wAP")
        masked = kind != "_without_row_masking"
        found = label_precision(inputs["pred"], inputs[truths[kind]], mask_empty=masked)
        values: dict[str, Callable[[], object]] = {
            "mAP": lambda found=found: found.mean(legacy_nan=True),
            "APs": lambda found=found: found.per_class,
            "wAP": lambda found=found: found.weighted,
        }
        case.close(name, values[name.removesuffix(kind)](), golden, "M")


def check_classification(case: GoldenCase) -> None:
    """lavila ``metric_classification``: top-k, mean class accuracy, confusion, marginals."""
    golden, inputs, outputs = case.json, _arrays(case), case.group("outputs")
    for suffix in ("", "_few"):
        if f"logits{suffix}" in inputs:
            scores, target = inputs[f"logits{suffix}"], inputs[f"target{suffix}"]
            found = class_accuracy(scores, target)
            values = {"acc": found["top1"], "mean_acc": found["mean_class"]}
            values |= topk_accuracy(scores, target)
            for key in ("acc", "mean_acc", "top1", "top5"):
                if key + suffix in outputs:
                    stored = outputs[key + suffix]
                    case.close(key + suffix, np.full(stored.shape, values[key]), stored, "M")
    if "cm" in outputs:
        counts = confusion_matrix(
            inputs["logits"].argmax(axis=1), inputs["target"], len(outputs["cm"])
        )
        case.close("cm", counts, outputs["cm"], "X")
    for part, actions in (golden.get("actions") or {}).items():
        lists = golden.get(f"{part}_index_lists")
        if lists is not None:
            eye = np.eye(len(actions))
            summed = marginal_scores(eye, np.array(actions), len(lists), legacy_absent=True)
            indices = [np.flatnonzero(column).tolist() for column in summed.T]
            case.exact(f"{part}_index_lists", indices, lists)
        if f"{part}_scores" in outputs:
            stored = outputs[f"{part}_scores"]
            scores = marginal_scores(
                inputs["probs"], np.array(actions), stored.shape[1], legacy_absent=True
            )
            case.close(f"{part}_scores", scores, stored, "M")


# --- EgoVLP -------------------------------------------------------------------------------------


def check_metrics(case: GoldenCase) -> None:
    """egovlp ``metrics``: every metric with its intermediates."""
    inputs = _arrays(case)
    _check_mcq(case, inputs)
    _check_mir(case, inputs)
    _check_mir_chain(case)
    _check_labels(case, inputs)
    _check_keyframes(case, inputs)


def _check_mcq(case: GoldenCase, inputs: Mapping[str, Any]) -> None:
    for name, types in (("egomcq", "mcq_types"), ("egomcq_only_type2", "mcq_types_only_type2")):
        golden = case.json.get(name)
        if golden is not None:
            rows = slice(None)
            if len(inputs[types]) != len(inputs["mcq_preds"]):
                rows = slice(len(inputs[types]))
            scores, answers = inputs["mcq_preds"][rows], inputs["mcq_labels"][rows]
            found = choice_accuracy(scores, answers, inputs[types], legacy_names=True)
            case.exact(f"{name} names", sorted(found), sorted(golden))
            for key, value in golden.items():
                case.close(f"{name} {key}", found[key], value, "M")


def _check_mir(case: GoldenCase, inputs: Mapping[str, Any]) -> None:
    if "mir_sim" not in inputs:
        return
    sim, rel = inputs["mir_sim"], inputs["mir_rel"]
    metrics, ranked = mir_metrics(sim, rel, on_empty="legacy_nan"), rank_queries(sim, rel)
    for key in ("ndcg_v2t", "ndcg_t2v", "map_v2t", "map_t2v"):
        if key in case.json:
            case.close(key, metrics[_ours(key)] / 100, case.json[key], "M")
    kept = np.arange(rel.shape[1]) < ranked.num_relevant[:, None]
    values = {"dcg_v": ranked.dcg, "idcg_v": ranked.ideal_dcg, "ndcg_v": ranked.ndcg}
    values["k_counts"] = kept.astype(np.int64)
    for key, value in values.items():
        if key in case.group("outputs"):
            tolerance = "X" if key == "k_counts" else "M"
            case.close(key, value, case.tensors[f"outputs/{key}"], tolerance)
    golden = case.json.get("row_without_relevant")
    if golden is not None:
        scores, relevancy = (inputs[k] for k in case.json["inputs_of"]["row_without_relevant"])
        found = mir_metrics(scores, relevancy, on_empty="legacy_nan")
        for key in ("ndcg_v2t", "map_v2t"):
            case.close(f"row_without_relevant {key}", found[_ours(key)] / 100, golden[key], "M")


def _ours(key: str) -> str:
    return key.replace("ndcg", "nDCG").replace("map", "mAP")


def _check_mir_chain(case: GoldenCase) -> None:
    """Embeddings of all ranks with a sampler's duplicates, to the final numbers."""
    inputs, golden = case.group("inputs"), case.json
    if "mir_text_embeds" not in inputs:
        return
    order = inputs.get("mir_gather_index", torch.arange(len(inputs["mir_text_embeds"])))
    named = {"text": inputs["mir_text_embeds"], "video": inputs["mir_video_embeds"]}
    _, rows = dist.gather_rows(order, {k: v[order] for k, v in named.items()})
    ids = golden["mir_video_ids"]
    columns = [ids.index(sentence) for sentence in golden["mir_sentence_ids"]]
    cosine = ((cosine_matrix(rows["text"], rows["video"]) + 1) / 2).T[:, columns]
    plain = mir_metrics(cosine, inputs["mir_rel"])
    for key, value in (golden.get("mir_metrics") or {}).items():
        ours = key.replace("_AVG", "").replace("V2T", "v2t").replace("T2V", "t2v")
        case.close(f"mir_metrics {key}", plain[ours], value, "M")
    for key, value in (golden.get("test_epic_plain") or {}).items():
        case.close(f"test_epic_plain {key}", plain[_ours(key)] / 100, value, "M")
    dual = golden.get("dual_softmax")
    if dual is not None:
        scale = dual["embed_scale"]
        matrix = dual_softmax((rows["text"] * scale) @ (rows["video"] * scale).T)
        stored = case.tensors.get("outputs/dual_softmax_text_by_video")
        if stored is not None:
            case.close("dual_softmax_text_by_video", matrix, stored, "F")
        found = mir_metrics(matrix.T[:, columns], inputs["mir_rel"], legacy_ties=True)
        for key in ("ndcg_v2t", "ndcg_t2v", "map_v2t", "map_t2v"):
            if key in dual:
                case.close(f"dual_softmax {key}", found[_ours(key)] / 100, dual[key], "M")


def _check_labels(case: GoldenCase, inputs: Mapping[str, Any]) -> None:
    if "charades_scores" not in inputs:
        return
    scores, golden = inputs["charades_scores"], case.json
    found = label_precision(scores, inputs["charades_gt"])
    stored = case.tensors.get("outputs/charades_ap")
    if stored is not None:
        case.close("charades_ap", found.per_class, stored, "M")
    if "charades_mAP" in golden:
        case.close("charades_mAP", found.mean(legacy_nan=True), golden["charades_mAP"], "M")
    if "charades_weighted_sum" in golden:
        weighted = float(np.nansum(found.weighted))
        case.close("charades_weighted_sum", weighted, golden["charades_weighted_sum"], "M")
    if "charades_class_without_positive" in golden:
        names = golden["inputs_of"]["charades_class_without_positive"]
        empty = label_precision(*(inputs[name] for name in names))
        value = float(golden["charades_class_without_positive"])
        case.close("charades_class_without_positive", empty.mean(legacy_nan=True), value, "M")
        assert math.isfinite(empty.mean())


def _check_keyframes(case: GoldenCase, inputs: Mapping[str, Any]) -> None:
    golden = case.json
    if "oscc" in golden:
        found = state_change_accuracy(inputs["oscc_preds"], inputs["oscc_labels"])
        case.close("oscc", found["accuracy"], golden["oscc"]["accuracy"], "M")
    for name, mask in (("pnr", "pnr_sc"), ("pnr_no_positive", "pnr_sc_no_positive")):
        if name in golden:
            found = keyframe_error(
                inputs["pnr_preds"],
                start_frame=inputs["pnr_start"],
                end_frame=inputs["pnr_end"],
                keyframe=inputs["pnr_frame"],
                fps=inputs["pnr_fps"],
                state_change=inputs[mask],
                legacy_nan=True,
            )
            value = golden[name]
            stored = value["keyframe_distance"] if isinstance(value, dict) else float(value)
            case.close(name, found["error_sec"], stored, "M")
