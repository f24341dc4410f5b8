from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError
from egovl.data.types import ClipRef, Span, VideoSource
from tests.egovl.data.numbered_video import read_numbers, write_video


def source(folder: Path, chunk_sec: float = 10.0) -> VideoSource:
    return VideoSource(folder, chunk_sec=chunk_sec)


def numbers_of(result: np.ndarray | DecodeError) -> list[int]:
    assert isinstance(result, np.ndarray), result
    return read_numbers(result)


@pytest.mark.parametrize("sampling", ["segment", "range"])
def test_frames_follow_the_clip_across_chunks(tmp_path: Path, sampling: str) -> None:
    for k in range(3):
        write_video(tmp_path / f"{k}.mp4", 300, first_number=300 * k)
    config = LoaderConfig(sampling=sampling, num_frames=4)  # type: ignore[arg-type]
    clips = [Span(9.0, 11.0), Span(1.0, 2.0), Span(19.5, 20.5), Span(9.5, 10.5)]
    requests = [ClipRequest(ClipRef(source(tmp_path), span), None) for span in clips]
    for span, result in zip(clips, ClipReader(config).read(requests), strict=True):
        numbers = numbers_of(result)
        assert numbers == sorted(numbers)
        assert 30 * span.start_sec <= numbers[0]
        assert numbers[-1] < 30 * span.end_sec
        assert numbers[-1] - numbers[0] > 15 * (span.end_sec - span.start_sec)


def test_many_clips_of_one_file_equal_each_read_alone(tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", 300)
    config = LoaderConfig(num_frames=4)
    random = Random(3)
    spans = [Span(s := random.uniform(0, 8), s + 1.0) for _ in range(12)]

    def requests() -> list[ClipRequest]:
        return [
            ClipRequest(ClipRef(source(tmp_path), span), Random(i).randint)
            for i, span in enumerate(spans)
        ]

    together = ClipReader(config).read(requests())
    alone = [ClipReader(config).read([request])[0] for request in requests()]
    assert [numbers_of(r) for r in together] == [numbers_of(r) for r in alone]


def test_a_damaged_stretch_fails_its_clip_only_and_names_file_and_span(tmp_path: Path) -> None:
    path = write_video(tmp_path / "0.mp4", 300, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    spans = [Span(0.5, 1.5), Span(9.0, 9.9), Span(1.0, 2.0)]
    requests = [ClipRequest(ClipRef(source(tmp_path), span), None) for span in spans]
    first, damaged, third = ClipReader(LoaderConfig()).read(requests)
    assert numbers_of(first)[0] >= 15
    assert numbers_of(third)[0] >= 30
    assert isinstance(damaged, DecodeError)
    assert damaged.span == spans[1]
    assert "0.mp4 at 9.000 .. 9.900 s" in str(damaged)


def test_a_clip_behind_the_video_and_a_missing_video_are_errors(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "0.mp4", 60)
    reader = ClipReader(LoaderConfig())
    behind, missing = reader.read(
        [
            ClipRequest(ClipRef(source(tmp_path / "v"), Span(5.0, 6.0)), None),
            ClipRequest(ClipRef(source(tmp_path / "w"), Span(0.0, 1.0)), None),
        ]
    )
    assert isinstance(behind, DecodeError)
    assert "behind the end" in str(behind)
    assert isinstance(missing, DecodeError)
    assert "does not exist" in str(missing)


def test_the_published_seek_before_the_first_frame_gives_the_first(tmp_path: Path) -> None:
    write_video(tmp_path / "0.mp4", 60)
    early = VideoSource(tmp_path, chunk_sec=10.0, seek_offset=-1)
    config = LoaderConfig(sampling="range", num_frames=8)
    (frames,) = ClipReader(config).read([ClipRequest(ClipRef(early, Span(0.0, 0.3)), None)])
    assert numbers_of(frames)[:2] == [0, 0]
