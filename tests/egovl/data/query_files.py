"""A few clips with features and questions about them, as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.data.features import FeatureFacts, FeatureWriter

WIDTH, TEXT_WIDTH = 6, 5


def question(
    number: int, start: float, end: float, text: str = "where is it?"
) -> dict[str, object]:
    return {
        "query": text,
        "query_id": f"ann{number}_0",
        "duration": 40.0,
        "video_id": f"clip{number % 3}",
        "query_type": "nlq",
        "timestamps": [[start, end]],
    }


def write_store(folder: Path, arrays: dict[str, np.ndarray], width: int) -> Path:
    writer = FeatureWriter(folder, FeatureFacts(width=width))
    for name, array in arrays.items():
        writer.write(name, array)
    return folder


def write_questions(folder: Path, rows: list[dict[str, object]]) -> NLQConfig:
    """Three clips of 40 s with a feature each half second, and the questions ``rows``."""
    rng = np.random.default_rng(0)
    videos = {f"clip{k}": rng.normal(size=(80, WIDTH)) for k in range(3)}
    texts = {
        str(row["query_id"]): rng.normal(size=(3 + n % 3, TEXT_WIDTH)) for n, row in enumerate(rows)
    }
    lines = folder / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return NLQConfig(
        annotations=(lines,),
        features=write_store(folder / "videos", videos, WIDTH),
        text_features=write_store(folder / "texts", texts, TEXT_WIDTH),
    )
