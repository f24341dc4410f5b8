from __future__ import annotations

import itertools
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.data.clips import ClipReader, ClipRequest
from egovl.data.collate import crop_clip
from egovl.data.configs import LoaderConfig
from egovl.data.decode import DecodeError, open_reader
from egovl.data.image_reader import write_image
from egovl.data.loader import build_eval_loader, build_train_loader
from egovl.data.mixing import mix_clips
from egovl.data.sampling import keyframe_ids, strided_frame_ids
from egovl.data.types import ClipRef, RandomSource, Sample, Span, VideoSource
from tests.egovl.data.numbered_video import draw_number, read_numbers, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 frames that show their number."""
    return write_video(tmp_path_factory.mktemp("videos") / "v.mp4", 90)


def read(video: Path, config: LoaderConfig, clip: ClipRef | None = None) -> list[int]:
    whole = ClipRef(VideoSource(video, fps=None), Span(0.0, math.inf))
    (frames,) = ClipReader(config).read([ClipRequest(clip or whole, None)])
    assert isinstance(frames, np.ndarray), frames
    return read_numbers(frames)


def test_windows_are_spread_over_a_clip_and_one_stands_in_its_middle() -> None:
    assert strided_frame_ids(10, 90, 4, 5) == [40, 45, 50, 55]
    assert strided_frame_ids(10, 90, 2, 5, num_windows=3) == [10, 15, 45, 50, 80, 85]
    assert strided_frame_ids(10, 16, 4, 5) == [10, 15, 15, 15]
    drawn = {
        tuple(strided_frame_ids(10, 40, 2, 5, draw=lambda low, high, k=k: low + k % (high + 1)))
        for k in range(50)
    }
    assert len(drawn) == 21
    assert {min(ids) for ids in drawn} == set(range(10, 31))


def test_frames_of_a_state_change_are_evenly_spaced() -> None:
    for start, end in ((100, 340), (33, 190), (7, 40)):
        frames = keyframe_ids(start, end)
        assert len(frames) == 16
        assert start <= frames[0] and frames[-1] < end
        assert len(set(np.diff(frames))) == 1
    with pytest.raises(ValueError, match=r"10 frames 50 .. 60 hold no 16"):
        keyframe_ids(50, 60)


def test_several_evaluation_clips_are_consecutive_parts_of_the_sample(video: Path) -> None:
    two = LoaderConfig(num_frames=4, num_clips=2)
    assert read(video, two) == read(video, LoaderConfig(num_frames=8))
    window = LoaderConfig(num_frames=3, num_clips=2, sampling="window", stride=10)
    assert read(video, window) == [0, 10, 20, 60, 70, 80]


def test_annotated_frames_are_read_as_they_are(video: Path) -> None:
    source, span = VideoSource(video, fps=None), Span(0.0, 1.0)
    fixed = ClipRef(source, span, frames=(3, 50, 7))
    assert read(video, LoaderConfig(num_frames=4), fixed) == [3, 50, 7]
    ranged = ClipRef(source, span, frame_range=(20, 40))
    assert read(video, LoaderConfig(num_frames=4, sampling="range"), ranged) == [22, 27, 32, 37]
    assert read(video, LoaderConfig(num_frames=2, sampling="window", stride=5), ranged) == [25, 30]


def test_black_frames_of_a_short_clip_are_legacy(video: Path) -> None:
    short = ClipRef(VideoSource(video, fps=None), Span(0.0, 0.5))
    config = {"num_frames": 4, "sampling": "window", "stride": 7}
    assert read(video, LoaderConfig(**config), short) == [0, 7, 14, 14]
    legacy = LoaderConfig(**config, legacy_windows=True)
    assert read(video, legacy, short) == [0, 7, 14, 0]  # number 0 is black


def test_crops_and_clips_become_views_clips_outermost() -> None:
    frames = np.zeros((4, 32, 64, 3), dtype=np.uint8)
    frames[:2, :, :32, 0] = 200  # first clip: left half red
    frames[2:, :, :, 1] = 100  # second clip: green
    config = LoaderConfig(num_frames=2, num_clips=2, num_crops=3, image_size=16)
    views = crop_clip(frames, config, None)
    assert [tuple(view.shape) for view in views] == [(3, 2, 16, 16)] * 6
    red = [float(view[0].float().mean()) for view in views]
    assert red[0] > 150 > red[1] > red[2] == 0
    assert red[3:] == [0, 0, 0]
    assert all(view[1].float().mean() > 90 for view in views[3:])
    assert len(crop_clip(frames, LoaderConfig(num_clips=2, image_size=16), None)) == 2
    with pytest.raises(ValueError, match="1 with eval_resize"):
        LoaderConfig(num_crops=3, eval_resize=256)


def test_a_folder_of_numbered_pictures_is_read_by_number(tmp_path: Path) -> None:
    for number in (5, 12, 90):
        write_image(tmp_path / "a" / f"frame_{number:010d}.png", draw_number(number))
        write_image(tmp_path / "b" / f"{number}.jpeg", draw_number(number))
    for folder in ("a", "b"):
        reader = open_reader(tmp_path / folder)
        assert read_numbers(reader.read([5, 12, 90])) == [5, 12, 90]
        assert reader.num_frames == 91
        with pytest.raises(DecodeError, match=r"frames \[6\] are not in the folder"):
            reader.read([5, 6])
    (tmp_path / "c").mkdir()
    with pytest.raises(DecodeError, match="holds no numbered pictures"):
        open_reader(tmp_path / "c")
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match="cannot read the picture"):
        open_reader(tmp_path / "x.jpg")


def test_seconds_of_a_folder_of_pictures_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", draw_number(1))
    clip = ClipRef(VideoSource(tmp_path, fps=None), Span(0.0, 1.0))
    (found,) = ClipReader(LoaderConfig()).read([ClipRequest(clip, None)])
    assert isinstance(found, DecodeError)
    assert "NaN" in str(found)


class Visits:
    """A dataset whose training text is drawn."""

    label_sizes: dict[str, int]

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.label_sizes = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, -1)

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        return self._sample(index, random.integer(0, 10**6))

    def _sample(self, index: int, number: int) -> Sample:
        clip = ClipRef(VideoSource(self.files[index], fps=None), Span(0.0, 2.0))
        return Sample(index, (clip,), (str(number),), {"number": number})

    def chunk_of(self, index: int) -> int:
        return index


def test_what_a_dataset_draws_depends_on_seed_epoch_and_index_alone(video: Path) -> None:
    def numbers(workers: int, seed: int = 0) -> list[list[int]]:
        config = LoaderConfig(batch_size=4, num_workers=workers, image_size=16)
        loader = build_train_loader(
            Visits([video] * 8),
            config,
            None,
            seed=seed,
            rank=0,
            world_size=1,
            start_sample=0,
        )
        found = [b.labels["number"].tolist() for b in itertools.islice(loader, 4)]
        loader.close()
        return found

    assert numbers(0) == numbers(2)
    assert numbers(0) != numbers(0, seed=1)
    assert len({n for batch in numbers(0) for n in batch}) == 16
    config = LoaderConfig(num_workers=0, image_size=16)
    (batch,) = build_eval_loader(Visits([video] * 3), config, None, rank=0, world_size=1)
    assert batch.labels["number"].tolist() == [-1] * 3


def test_a_worker_stuck_on_a_named_pipe_does_not_stop_training(video: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    dataset = Visits([video, tmp_path / "pipe.mp4", *[video] * 14])
    config = LoaderConfig(
        batch_size=4,
        num_workers=2,
        image_size=16,
        on_error="skip",
        max_bad_fraction=0.1,
        decode_timeout_sec=0.5,
    )
    loader = build_train_loader(dataset, config, None, seed=0, rank=0, world_size=1, start_sample=0)
    started = time.monotonic()
    batches = list(itertools.islice(loader, 20))  # five epochs: each worker meets the pipe
    assert all(len(batch.index) == 4 and 1 not in batch.index for batch in batches)
    assert loader.counters.bad_samples == {1}
    assert "no answer within 0.5 s" in loader.counters.bad_files[tmp_path / "pipe.mp4"]
    assert time.monotonic() - started < 60
    loader.close()


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
def test_mixing_takes_pixels_and_targets_in_the_same_share(alphas: tuple[float, float]) -> None:
    torch.manual_seed(0)
    target = torch.tensor([0, 1, 2, 3])
    video = target.float()[:, None, None, None, None].expand(4, 3, 2, 32, 32)
    shares = []
    for _ in range(20):
        mixed, soft = mix_clips(
            video, {"a": target}, {"a": 5}, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )
        assert soft["a"].sum(dim=1) == pytest.approx(torch.ones(4))
        expected = soft["a"] @ torch.arange(5.0)  # pixel values are class numbers
        assert mixed.mean(dim=(1, 2, 3, 4)) == pytest.approx(expected, abs=1e-5)
        shares.append(float(soft["a"].amax(dim=1).min()))
    assert len(set(shares)) > 5
    torch.manual_seed(3)
    first = mix_clips(video, {"a": target}, {"a": 5}, mixup_alpha=0.5)[0]
    torch.manual_seed(3)
    assert torch.equal(first, mix_clips(video, {"a": target}, {"a": 5}, mixup_alpha=0.5)[0])
    same, hard = mix_clips(video, {"a": target}, {"a": 5})
    assert same is video
    assert hard["a"].argmax(dim=1).tolist() == [0, 1, 2, 3]
