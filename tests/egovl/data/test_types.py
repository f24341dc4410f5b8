from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from egovl.data.configs import (
    CLIPBPEConfig,
    EgoClipConfig,
    HFTokenizerConfig,
    LoaderConfig,
)
from egovl.data.types import Batch, Span, VideoSource


def test_configs_and_types_load_neither_torch_nor_a_decoder() -> None:
    heavy = "torch", "numpy", "transformers", "pandas", "decord", "av", "timm"
    code = (
        "import sys, egovl.data.configs, egovl.data.types\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("start_end", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_span_without_positive_length_is_refused(start_end: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= start < end"):
        Span(*start_end)


def test_chunk_files_follow_both_published_layouts() -> None:
    root = Path("videos")
    egovlp = EgoClipConfig(annotations=root, video_root=root).source("u")
    lavila = EgoClipConfig(annotations=root, video_root=root, layout="lavila").source("u")
    whole = EgoClipConfig(annotations=root, video_root=root, layout="file").source("u")
    assert egovlp.chunk_of(1250.0) == 2
    assert egovlp.chunk_file(2) == root / "u" / "2.mp4"
    assert lavila.chunk_of(1250.0) == 4
    assert lavila.chunk_file(4) == root / "u.mp4" / "1200.mp4"
    assert whole.chunk_file(whole.chunk_of(1250.0)) == root / "u.mp4"
    assert VideoSource(root).chunk_of(1e6) == 0


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (LoaderConfig, {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        (LoaderConfig, {"scale": (0.9, 0.5)}, "scale"),
        (LoaderConfig, {"eval_resize": 100}, "eval_resize is 100; it must be at least image_size"),
        (LoaderConfig, {"backend": "opencv"}, "backend is 'opencv'"),
        (LoaderConfig, {"decode_timeout_sec": 0}, "decode_timeout_sec"),
        (CLIPBPEConfig, {"vocab_size": 100}, "vocab_size is 100"),
        (CLIPBPEConfig, {"context_length": 1}, "context_length"),
        (HFTokenizerConfig, {"folder": Path(), "context_length": 0}, "context_length"),
        (
            EgoClipConfig,
            {"annotations": Path(), "video_root": Path(), "layout": "file", "chunk_sec": 300},
            "chunk_sec",
        ),
        (
            EgoClipConfig,
            {"annotations": Path(), "video_root": Path(), "neg_window_sec": 0.0},
            "neg_window_sec",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(
    config: type, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_moving_a_batch_keeps_every_field() -> None:
    batch = Batch(torch.tensor([3]), None, torch.ones(1, 2), None, {"answer": torch.tensor([1])})
    moved = batch.to("cpu")
    assert moved.index.tolist() == [3]
    assert moved.video is None
    assert moved.token_mask is None
    assert moved.tokens is not None
    assert moved.tokens.tolist() == [[1.0, 1.0]]
    assert moved.labels["answer"].tolist() == [1]
