from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovl.tasks.dense_features import cut_windows, encode_windows, load_dense_features


def mean(windows: Tensor) -> Tensor:
    return windows.float().flatten(2).mean(dim=(1, 2))[:, None]


def test_every_window_has_a_feature_and_only_the_published_tail_is_zero() -> None:
    video = torch.arange(1.0, 31.0)[:, None, None].expand(30, 2, 2)
    windows = cut_windows(video, 4)
    assert windows.shape == (7, 4, 2, 2)
    features = encode_windows(mean, windows, batch_size=4)
    assert features.flatten().tolist() == [2.5 + 4 * k for k in range(7)]
    legacy = encode_windows(mean, windows, batch_size=4, legacy_zero_tail=True)
    assert legacy.flatten().tolist() == [2.5, 6.5, 10.5, 14.5, 0, 0, 0]


def test_features_of_a_clip_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    torch.save(torch.ones(3, 2, dtype=torch.float16), tmp_path / "c1.pt")
    assert load_dense_features(tmp_path, "c1").dtype == torch.float32
    with pytest.raises(FileNotFoundError, match="no features for clip c2"):
        load_dense_features(tmp_path, "c2")
    torch.save({"a": 1}, tmp_path / "c3.pt")
    with pytest.raises(ValueError, match="holds no matrix"):
        load_dense_features(tmp_path, "c3")
