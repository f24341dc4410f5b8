"""Loading on real pixels: prepared chunks in the loader's own order against a reader per clip.

The real egocentric clip is looped to 300 s, once with x264's defaults, as chunks are when nobody
thinks of readers, and once through ``prepare videos``. 200 videos stand for a corpus (links to the
one file: every one is opened by its own name), 40 narrations each. Both sides read the same frames
of the same samples, four a clip, on one thread; ours in the batches and the order of training.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from random import Random

import av
import decord
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.configs import EgoClipConfig, LoaderConfig
from egovl.data.datasets.egoclip import EgoClip
from egovl.data.order import global_batches, sample_order
from egovl.data.prepare.configs import VideosConfig
from egovl.data.prepare.videos import prepare_videos
from tests.bench.ratio import report_ratio
from tests.bench.test_decode import middle_frames
from tests.egovl.data.numbered_video import write_egoclip
from tests.real_data import REAL_DATA

CLIP = REAL_DATA / "video" / "ego4d_3c0dffd0_012_014.mp4"
SECONDS, VIDEOS, CLIPS_PER_VIDEO, BATCH, BATCHES = 300, 200, 40, 64, 2

pytestmark = pytest.mark.skipif(not CLIP.is_file(), reason=f"real video absent: no {CLIP}")


def loop_clip(path: Path) -> Path:
    """The clip again and again for 300 s, encoded with x264's own choices."""
    path.parent.mkdir(parents=True)
    with av.open(str(CLIP)) as container:
        frames = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        size = container.streams.video[0].height, container.streams.video[0].width
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.codec_context.thread_count = 2  # one alone takes minutes
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for number in range(SECONDS * 30):
            picture = av.VideoFrame.from_ndarray(frames[number % len(frames)], "yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of 200 videos in EgoVLP's layout, by how they were encoded."""
    folder = tmp_path_factory.mktemp("loading")
    default = loop_clip(folder / "source/v.mp4")
    config = VideosConfig(
        source=default.parent,
        out=folder / "prepared",
        layout="egovlp",
        chunk_sec=600,
        short_side=288,
        fps=30,
        workers=1,
    )
    report = prepare_videos(config)
    assert report.made == 1, report.failed
    files = {"default": default, "prepared": folder / "prepared/v/0.mp4"}
    for name, file in files.items():
        for number in range(VIDEOS):
            chunk = folder / f"corpus-{name}/{number:03d}/0.mp4"
            chunk.parent.mkdir(parents=True)
            os.link(file, chunk)
        print(f"\n{name}: {file.stat().st_size / 2**20:.1f} MiB for {SECONDS} s")
    return {name: folder / f"corpus-{name}" for name in files}


@pytest.fixture(scope="module")
def dataset(roots: dict[str, Path]) -> EgoClip:
    random, rows = Random(0), []
    for video in range(VIDEOS):
        for _ in range(CLIPS_PER_VIDEO):
            start = round(random.uniform(0, SECONDS - 2), 3)
            rows.append((f"{video:03d}", start, start + 1.0, "#C C cooks", [1], [2]))
    table = write_egoclip(roots["prepared"].parent / "egoclip.csv", rows)
    return EgoClipConfig(annotations=table, video_root=roots["prepared"]).build()


def test_loading_prepared_chunks_against_a_reader_per_clip(
    benchmark: BenchmarkFixture, roots: dict[str, Path], dataset: EgoClip
) -> None:
    config = LoaderConfig(batch_size=BATCH, num_frames=4)
    order = sample_order(
        dataset,
        seed=0,
        clips_per_chunk=config.clips_per_chunk,
        shuffle_window=config.shuffle_window,
    )
    batches = global_batches(order, start_sample=0, batch_size=BATCH)
    chosen = [indices.tolist() for _, indices in islice(batches, BATCHES)]
    clips = [[dataset.clip(index) for index in indices] for indices in chosen]
    reader = ClipReader(config)

    def ours() -> list[np.ndarray]:
        return [
            np.asarray(frames)
            for batch in clips
            for frames in reader.read([ClipRequest(clip, None) for clip in batch])
        ]

    def baseline() -> list[np.ndarray]:
        pictures = []
        for clip in (clip for batch in clips for clip in batch):
            path = roots["default"] / clip.video.path.name / "0.mp4"
            video = decord.VideoReader(str(path), num_threads=1)
            pictures.append(video.get_batch(middle_frames(clip.span)).asnumpy())
        return pictures

    for mine, theirs in zip(ours(), baseline(), strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine.astype(int) - theirs).mean() < 4  # the same frames, encoded twice
    count = BATCH * BATCHES
    found = report_ratio(f"{count} clips of {VIDEOS} videos", ours, baseline, rounds=3)
    rates = [1000 * count / ms for ms in (found.ours_ms, found.baseline_ms)]
    print(f"clips a second and core: ours {rates[0]:.0f}, baseline {rates[1]:.0f}")
    benchmark.pedantic(ours, rounds=1)
