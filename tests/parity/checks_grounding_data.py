"""Checks of annotations, feature stores, jitter and question texts (GroundNLQ)."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egovl.convert import clip
from egovl.data.configs import CLIPBPEConfig
from egovl.data.datasets.nlq import NLQ
from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.data.datasets.nlq_narrations import narration_rows
from egovl.data.datasets.nlq_rows import QueryRow, query_rows, row_of_record
from egovl.data.feature_files import write_lmdb
from egovl.data.query_text import canonical_question, pad_questions, question_tokens, word_rows
from egovl.data.text import load_clip_tokenizer
from egovl.models.configs import TextTowerConfig
from tests.parity.golden import GoldenCase

Record = Mapping[str, Any]
_TIMES = ("duration", "timestamps")


def same_rows(
    case: GoldenCase, label: str, own: Sequence[Record], golden: Sequence[Record]
) -> None:
    """Everything exactly but times, which are arithmetic on seconds."""
    case.exact(f"{label} ids", [r["query_id"] for r in own], [r["query_id"] for r in golden])
    for number, (mine, theirs) in enumerate(zip(own, golden, strict=True)):
        words = [{k: v for k, v in r.items() if k not in _TIMES} for r in (mine, theirs)]
        case.exact(f"{label} {number}", *words)
        case.exact(f"{label} {number} keys", sorted(mine), sorted(theirs))
        for name in _TIMES:
            if name in theirs:
                case.close(f"{label} {number} {name}", mine[name], theirs[name], "M")


def check_reformat(case: GoldenCase) -> None:
    """The official json as rows, with and without spans."""
    for name, with_spans in (("train_rows", True), ("test_rows", False)):
        if name in case.json:
            own = [row.record() for row in query_rows(case.json["source"], with_spans=with_spans)]
            same_rows(case, name, own, case.json[name])


def check_narration(case: GoldenCase) -> None:
    """Narrations inside the benchmarks' clips as rows."""
    tasks = [case.json["task_json"][name] for name in case.json["task_order"]]
    lines = case.json["egoclip_tsv"].splitlines(keepends=True)
    if isinstance(case.json["rows"], str):
        case.raises("rows", lambda: list(narration_rows(lines, tasks)))
        return
    own = [row.record() for row in narration_rows(lines, tasks)]
    same_rows(case, "rows", own, case.json["rows"])


class PythonRandom:
    """The published source of jitter."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def check_dataset(case: GoldenCase) -> None:
    """Items from LMDB stores in the published layout, read in order with one source of jitter."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(case, Path(folder))
        source = PythonRandom(case.json["seed"])
        for number, golden in enumerate(case.json["items"]):
            item = dataset.item(number, source, dataset.features.read)
            compare = {
                "feats": torch.from_numpy(item.features.T.copy()),
                "query_feats": torch.from_numpy(item.tokens.T.copy()),
            }
            if item.spans is not None and item.classes is not None:
                compare["segments"] = torch.from_numpy(item.spans)
                compare["one_hot"] = torch.from_numpy(item.classes)
            else:
                case.exact(f"{number} segments", golden["segments"], None)
            for name, own in compare.items():
                expected = case.tensors.get(f"outputs/{name}_{number}")
                if expected is not None:
                    tolerance = "X" if name == "one_hot" else "F"
                    case.close(f"{number} {name}", own, expected, tolerance)
            check_facts(case, dataset.config, item.row, golden, number)


def check_facts(
    case: GoldenCase, config: NLQConfig, row: QueryRow, golden: Record, number: int
) -> None:
    own = {
        "video_id": row.video_id,
        "query_id": row.query_id,
        "query": row.query,
        "fps": config.fps or row.fps,
        "duration": row.duration_sec,
        "feat_stride": config.stride_frames,
        "feat_num_frames": config.window_frames,
    }
    for name, value in own.items():
        if name in golden:
            case.exact(f"{number} {name}", value, golden[name])


def dataset_of(case: GoldenCase, folder: Path) -> NLQ:
    section, rows = case.json["dataset"], case.json["rows"]
    stores: dict[str, dict[str, dict[str, np.ndarray]]] = {"video": {}, "text": {}}
    for number, row in enumerate(rows):
        for kind, array, name in (
            ("video", "features", row["video_id"]),
            ("text", "tokens", row["query_id"]),
        ):
            facts = case.json.get("store", {}).get(kind, {}).get(name, {})
            values = case.tensors[f"inputs/{array}_{number}"].numpy()
            values = values.astype(facts.get("dtype", "float32"))
            key = facts.get("key", "features")
            # the published writer leaves this one behind, and readers pass over it
            stores[kind][name] = {key: values, "allow_pickle": np.array(True)}
    for kind, records in stores.items():
        write_lmdb(folder / kind, records)
    lines = folder / "rows.jsonl"
    lines.write_text("\n".join(_line(row) for row in rows), encoding="utf-8")
    return NLQ(
        NLQConfig(
            annotations=(lines,),
            features=folder / "video",
            text_features=folder / "text",
            fps=section["default_fps"],
            stride_frames=section["feat_stride"],
            window_frames=section["num_frames"],
            downsample_rate=section["downsample_rate"],
            jitter=section["enable_temporal_jittering"],
            num_classes=section["num_classes"],
        )
    )


def _line(record: Record) -> str:
    import json

    assert row_of_record(record).query
    return json.dumps(record)


def check_text(case: GoldenCase) -> None:
    """Questions brought to one form, their ids, the rows that are kept."""
    tokenizer = load_clip_tokenizer(CLIPBPEConfig())
    for number, entry in enumerate(case.json["cases"]):
        question = canonical_question(entry["raw"])
        case.exact(f"{number} processed", question, entry["processed"])
        ids = question_tokens(tokenizer, question)
        case.exact(f"{number} ids", ids, entry["token_ids"])
        rows = word_rows(ids, legacy_zero=True)
        case.exact(f"{number} slice", [rows.start, rows.stop], entry["kept_slice"])
        valid = int((pad_questions([ids], 77) != 0).sum())
        case.exact(f"{number} length", valid, entry["valid_len"])


def check_clip_text(case: GoldenCase) -> None:
    """A tiny CLIP text transformer: hidden states, pooled embedding, kept rows."""
    facts, weights = case.json, case.group("weights")
    tower = TextTowerConfig(
        vocab_size=facts["vocab"],
        context_length=facts["context_length"],
        width=facts["width"],
        heads=facts["heads"],
        depth=facts["layers"],
    ).build()
    clip.load_text_tower(tower, weights)
    tower.eval()
    ids = case.tensors["inputs/ids"]
    with torch.no_grad():
        hidden = tower.forward_tokens(ids)
        pooled = tower(ids) @ weights["text_projection"]
    outputs = case.group("outputs")
    for name, own in (("last_hidden_state", hidden), ("pooler_output", pooled)):
        if name in outputs:
            case.close(name, own, outputs[name], "F")
    for row, tokens in enumerate(ids.tolist()):
        if f"tokens_{row}" in outputs:
            kept = hidden[row, word_rows(tokens, legacy_zero=True)]
            case.close(f"tokens {row}", kept, outputs[f"tokens_{row}"], "F")
