from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.configs import CC3MConfig, WebVidConfig
from egovl.data.image_reader import write_image
from egovl.data.loader import build_eval_loader
from egovl.data.types import Span
from tests.egovl.data.numbered_video import draw_number, read_numbers, write_video


def write(root: Path, stems: list[str]) -> Path:
    lines = ["caption\tpath", *(f"caption of {stem}\t{stem}" for stem in stems)]
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root / "list.csv"


def test_a_row_is_a_whole_file_with_its_caption(tmp_path: Path) -> None:
    config = WebVidConfig(annotations=write(tmp_path, ["1/a", "1/b", "2/a"]), video_root=tmp_path)
    dataset = config.build()
    assert len(dataset) == 3
    assert dataset[1].texts == ("caption of 1/b",)
    assert dataset[1].clips[0].video.path == tmp_path / "1" / "b.mp4"
    assert dataset[1].clips[0].span == Span(0.0, math.inf)
    assert len(set(dataset.chunk_numbers().tolist())) == 3


def test_a_share_of_the_rows_is_the_same_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, [f"s{i}" for i in range(400)])
    few = WebVidConfig(annotations=path, video_root=tmp_path, subsample=0.25).build()
    more = WebVidConfig(annotations=path, video_root=tmp_path, subsample=0.5).build()
    assert 60 < len(few) < 140
    assert {few[i].texts for i in range(len(few))} < {more[i].texts for i in range(len(more))}
    assert len(WebVidConfig(annotations=path, video_root=tmp_path, max_rows=7).build()) == 7
    with pytest.raises(ValueError, match=r"subsample is 0"):
        WebVidConfig(annotations=path, video_root=tmp_path, subsample=0)


def test_videos_and_pictures_are_read_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 40, first_number=100)
    write_image(tmp_path / "a.jpg", draw_number(7))
    path = write(tmp_path, ["a"])
    expected = {WebVidConfig: [105, 115, 125, 135], CC3MConfig: [7, 7, 7, 7]}
    for kind, numbers in expected.items():
        dataset = kind(annotations=path, video_root=tmp_path).build()
        config = LoaderConfig(num_workers=0, num_frames=4, image_size=64, sampling="range")
        (batch,) = build_eval_loader(dataset, config, None, rank=0, world_size=1)
        assert batch.video is not None
        frames = batch.video[0, 0].permute(1, 2, 3, 0).numpy()
        assert np.abs(np.array(read_numbers(frames)) - numbers).max() <= 1
        assert batch.labels == {}
