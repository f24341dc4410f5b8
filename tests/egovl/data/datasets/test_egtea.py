from __future__ import annotations

from pathlib import Path

import pytest

from egovl.data.datasets.configs import EGTEAConfig
from egovl.data.datasets.egtea import EGTEA

CLIP = "OP01-R01-Pasta-100-200-F000001-F000060"


def build(root: Path, split: str) -> EGTEA:
    (root / "action_idx.txt").write_text("Inspect/Read recipe 1\nOpen fridge_drawer 2\n")
    (root / "split.txt").write_text(split)
    return EGTEAConfig(
        annotations=root / "split.txt", classes=root / "action_idx.txt", video_root=root
    ).build()


def test_a_row_is_a_whole_file_with_an_action(tmp_path: Path) -> None:
    dataset = build(tmp_path, f"{CLIP} 2 4 7\n{CLIP} 1 1 1\n\n")
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample.clips[0].video.path == tmp_path / "OP01-R01-Pasta" / f"{CLIP}.mp4"
    assert sample.texts == ("open fridge drawer",)
    assert dict(sample.labels) == {"action": 1}
    assert dataset.class_texts["action"][0] == ("inspect/read recipe",)
    assert dataset.num_classes == {"action": 2}


@pytest.mark.parametrize(
    ("split", "message"),
    [(f"{CLIP} 3 1 1", "row 1: action 3 of 2"), (f"{CLIP}", "row 1: .* is no clip and action")],
)
def test_a_broken_row_is_named(tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, split)
