from __future__ import annotations

from random import Random

import pytest
import torch

from egovl.data.randomness import SampleRandom
from egovl.data.transforms import (
    center_crop,
    eval_crop,
    multi_views,
    normalize_video,
    resized_crop,
    sample_crop_box,
    spatial_views,
)


def frames(height: int, width: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (10, 300), (300, 10)])
def test_a_crop_box_lies_in_the_picture_with_the_asked_area_and_shape(
    size: tuple[int, int],
) -> None:
    height, width = size
    for i in range(200):
        top, left, box_height, box_width = sample_crop_box(height, width, SampleRandom(0, 0, i))
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert 0.7 < box_width / box_height < 1.4
        if max(size) < 200:  # otherwise no box of half the picture has an allowed shape
            assert 0.47 < box_height * box_width / (height * width) <= 1


def test_one_box_cuts_all_frames_and_flips_them_together() -> None:
    clip = frames(40, 60)[:1].repeat(4, 1, 1, 1)
    video = resized_crop(clip, (3, 5, 30, 20), 16)
    assert video.shape == (3, 4, 16, 16)
    assert all(torch.equal(video[:, 0], video[:, t]) for t in range(4))
    flipped = resized_crop(clip, (3, 5, 30, 20), 16, flip=True)
    assert torch.equal(flipped, video.flip(-1))


@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_in_bytes_is_within_one_grey_level_of_the_float_path(antialias: bool) -> None:
    clip = frames(77, 101)
    fast = resized_crop(clip, (5, 3, 60, 71), 32, antialias=antialias)
    exact = resized_crop(clip.float(), (5, 3, 60, 71), 32, antialias=antialias)
    assert fast.dtype == torch.uint8
    assert (fast.float() - exact).abs().max() <= 1
    fast, exact = eval_crop(clip, 32, resize=36), eval_crop(clip.float(), 32, resize=36)
    assert (fast.float() - exact).abs().max() <= 2  # it resizes twice


def test_a_crop_equals_torchvisions() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    clip = frames(40, 60).float()
    box = (3, 5, 30, 20)
    theirs = functional.resized_crop(clip.permute(0, 3, 1, 2), *box, [16, 16], antialias=False)
    assert torch.allclose(resized_crop(clip, box, 16).transpose(0, 1), theirs, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (41, 58)])
def test_the_evaluation_view_equals_torchvisions(size: tuple[int, int]) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    clip = frames(*size).float()
    resized = functional.resize(clip.permute(0, 3, 1, 2), [24], antialias=False)
    theirs = functional.center_crop(resized, [24])
    assert torch.allclose(eval_crop(clip, 24).transpose(0, 1), theirs, atol=1e-4)


def test_a_centre_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit in 20 x 30"):
        center_crop(torch.zeros(3, 2, 20, 30), 24)


def test_views_are_ordered_by_time_then_place() -> None:
    video = torch.arange(8 * 4 * 6).view(1, 8, 4, 6)
    views = multi_views(video, frames_per_clip=2, stride=4, size=4, num_crops=3)
    assert [int(view[0, 0, 0, 0]) for view in views] == [0, 1, 2, 96, 97, 98]
    six = spatial_views(video, 4, 6)
    assert torch.equal(six[3], video[..., 2:].flip(-1))
    assert len(spatial_views(video, 4, 1)) == 1
    with pytest.raises(ValueError, match="1, 3 or 6"):
        spatial_views(video, 4, 2)


def test_normalisation_works_on_bytes_of_any_leading_shape() -> None:
    video = torch.randint(0, 256, (2, 5, 3, 4, 8, 8), dtype=torch.uint8)
    result = normalize_video(video, "imagenet")
    expected = (video[1, 4, 0].float() / 255 - 0.485) / 0.229
    assert torch.allclose(result[1, 4, 0], expected, atol=1e-4)
    assert normalize_video(video, "clip", torch.bfloat16).dtype == torch.bfloat16
    legacy, right = normalize_video(video, "clip_legacy"), normalize_video(video, "clip")
    assert torch.equal(legacy[:, :, 1:], right[:, :, 1:])
    assert not torch.allclose(legacy[:, :, 0], right[:, :, 0])
    with pytest.raises(ValueError, match=r"'clips' is unknown; known: \['clip', 'clip_legacy', "):
        normalize_video(video, "clips")


def test_random_numbers_depend_on_every_part_of_the_key() -> None:
    def numbers(*key: int) -> list[int]:
        random = SampleRandom(*key)
        return [random.integer(0, 1 << 30) for _ in range(4)]

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)
    assert numbers(5, 6, 7) == numbers(5, 6, 7)
    ends = {SampleRandom(0, 0, i).integer(3, 5) for i in range(100)}
    assert ends == {3, 4, 5}
    assert all(2 <= SampleRandom(0, 1, i).uniform(2, 3) < 3 for i in range(100))
    assert Random(0).random() != SampleRandom(1, 0, 0).uniform(0, 1)
