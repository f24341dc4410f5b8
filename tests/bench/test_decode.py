"""Random 4-frame clips of a 300 s chunk: open readers on prepared chunks against a reader per clip.

The picture is a moving crop of noise at 384 x 288, so that the encoder has work. ``prepared`` is
what ``prepare`` writes: a keyframe every 15 frames, no B-frames; ``default`` is x264's own choice.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import av
import decord
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.configs import LoaderConfig
from egovl.data.types import ClipRef, Span, VideoSource
from tests.bench.ratio import report_ratio

HEIGHT, WIDTH, SECONDS, CLIPS = 288, 384, 300, 8
ENCODINGS = {
    "prepared": {"g": "15", "keyint_min": "15", "sc_threshold": "0", "bf": "0"},
    "default": {},
}


def write_chunk(path: Path, options: dict[str, str]) -> Path:
    path.parent.mkdir()
    smooth = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    scene = smooth.repeat(10, 0).repeat(10, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", **options}
        for i in range(30 * SECONDS):
            top, left = round(150 + 140 * np.sin(i / 40)), round(200 + 190 * np.cos(i / 53))
            frame = np.ascontiguousarray(scene[top : top + HEIGHT, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chunks")
    return {name: write_chunk(folder / name / "0.mp4", o) for name, o in ENCODINGS.items()}


def spans() -> list[Span]:
    random = Random(0)
    return [Span(start := random.uniform(0, SECONDS - 2), start + 1.0) for _ in range(CLIPS)]


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("encoding", ["prepared", "default"])
def test_open_reader_against_a_reader_per_clip(
    benchmark: BenchmarkFixture, chunks: dict[str, Path], encoding: str, backend: str
) -> None:
    clips = spans()
    reader = ClipReader(LoaderConfig(num_frames=4, backend=backend))  # type: ignore[arg-type]
    source = VideoSource(chunks["prepared"].parent, chunk_sec=SECONDS)

    def ours() -> list[np.ndarray]:
        # one call per clip, as clips of one chunk rarely meet in a batch
        requests = [ClipRequest(ClipRef(source, span), None) for span in clips]
        return [np.asarray(reader.read([request])[0]) for request in requests]

    def baseline(path: Path = chunks[encoding]) -> list[np.ndarray]:
        pictures = []
        for span in clips:
            video = decord.VideoReader(str(path), num_threads=1)
            pictures.append(video.get_batch(middle_frames(span)).asnumpy())
        return pictures

    for mine, theirs in zip(ours(), baseline(chunks["prepared"]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    name = f"{CLIPS} clips, {backend} kept open, against decord per clip on {encoding} encoding"
    report_ratio(name, ours, baseline, rounds=3)
    benchmark.pedantic(ours, rounds=1)


def middle_frames(span: Span) -> list[int]:
    """LaViLa's evaluation rule at 30 frames a second, from its formula."""
    start = int(np.round(span.start_sec * 30))
    length = max(int((span.end_sec - span.start_sec) * 30), 4)
    edges = [start + int(np.round((length - 1) / 4 * i)) for i in range(5)]
    return [(edges[i] + min(edges[i + 1], start + length)) // 2 for i in range(4)]
