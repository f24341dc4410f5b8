from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from egovl.data.sampling import (
    SpanOutsideVideoError,
    VideoFacts,
    place_range_frames,
    place_segment_frames,
    range_frame_ids,
    segment_frame_ids,
    window_frame_ids,
)
from egovl.data.types import Span, VideoSource

LAVILA = VideoSource(Path("v.mp4"), chunk_sec=300, chunk_names="start")
EGOVLP = VideoSource(Path("v"), chunk_sec=600)


def chunks(*lengths: int, fps: float = 30.0) -> Callable[[int], VideoFacts | None]:
    return lambda k: VideoFacts(lengths[k], fps) if 0 <= k < len(lengths) else None


@pytest.mark.parametrize("rule", [segment_frame_ids, range_frame_ids])
@pytest.mark.parametrize("num_frames", [1, 4, 16])
def test_ids_stay_in_the_clip_and_never_decrease(
    rule: Callable[..., list[int]], num_frames: int
) -> None:
    random = Random(0)
    for start, length in itertools.product([0, 7, 1000], [1, 2, 5, 30, 301]):
        for draw in (None, random.randint):
            ids = rule(start, start + length, num_frames, draw)
            assert len(ids) == num_frames
            assert ids == sorted(ids)
            assert start <= ids[0]
            assert ids[-1] < start + length


def test_every_frame_of_a_range_can_be_drawn_unless_legacy() -> None:
    def last_of_first_range(legacy: bool) -> bool:
        random = Random(0)
        draws = (range_frame_ids(0, 40, 4, random.randint, legacy=legacy) for _ in range(200))
        return any(ids[0] == 9 for ids in draws)

    assert last_of_first_range(legacy=False)
    assert not last_of_first_range(legacy=True)


def test_a_short_clip_is_drawn_from_and_fails_only_under_legacy() -> None:
    assert range_frame_ids(150, 151, 4, Random(0).randint) == [150] * 4
    with pytest.raises(IndexError, match="too short"):
        range_frame_ids(150, 151, 4, Random(0).randint, legacy=True)


def test_windows_are_cut_to_the_video() -> None:
    assert window_frame_ids(-10, 100, 60, 3.9) == [9, 29, 49]


def test_a_clip_goes_on_in_the_next_chunk_and_the_one_after() -> None:
    facts = chunks(9000, 9000, 9000)
    places = place_segment_frames(LAVILA, Span(299.0, 301.0), 4, facts)
    assert [chunk for chunk, _ in places] == [0, 0, 1, 1]
    longest = place_segment_frames(LAVILA, Span(1.0, 899.0), 16, facts)
    absolute = [9000 * chunk + frame for chunk, frame in longest]
    assert absolute == segment_frame_ids(30, 30 + 898 * 30, 16)


def test_the_published_rule_wraps_a_clip_over_three_chunks() -> None:
    source = VideoSource(Path("v"), 300, "start", legacy_outside=True)
    places = place_segment_frames(source, Span(1.0, 899.0), 16, chunks(9000, 9000, 9000))
    assert {chunk for chunk, _ in places} == {0, 1}


def test_a_clip_that_ends_behind_the_video_is_resampled_inside_it() -> None:
    places = place_segment_frames(LAVILA, Span(9.0, 20.0), 4, chunks(300))
    assert places == [(0, i) for i in segment_frame_ids(270, 300, 4)]


@pytest.mark.parametrize(
    ("place", "source"), [(place_segment_frames, LAVILA), (place_range_frames, EGOVLP)]
)
def test_a_clip_behind_the_end_is_refused_and_repeats_the_last_frame_under_legacy(
    place: Callable[..., list[tuple[int, int]]], source: VideoSource
) -> None:
    with pytest.raises(SpanOutsideVideoError, match=r"starts behind the end .* at 10 s"):
        place(source, Span(20.0, 21.0), 4, chunks(300))
    legacy = VideoSource(source.path, source.chunk_sec, legacy_outside=True)
    assert place(legacy, Span(20.0, 21.0), 4, chunks(300)) == [(0, 299)] * 4


@pytest.mark.parametrize("place", [place_segment_frames, place_range_frames])
@pytest.mark.parametrize("source", [EGOVLP, VideoSource(Path("v.mp4"))])
def test_a_missing_first_chunk_names_the_file(
    place: Callable[..., list[tuple[int, int]]], source: VideoSource
) -> None:
    with pytest.raises(SpanOutsideVideoError, match=r"v.* does not exist"):
        place(source, Span(20.0, 21.0), 4, chunks())


def test_a_frame_on_the_boundary_comes_from_the_second_chunk() -> None:
    span, facts = Span(599.9, 600.1), chunks(18000, 18000)

    def boundary_frame(source: VideoSource) -> Sequence[tuple[int, int]]:
        places = place_range_frames(source, span, 6, facts)
        return [place for place in places if place[1] in (0, 18000, -1)]

    assert boundary_frame(EGOVLP) == [(1, 0)]
    legacy = VideoSource(EGOVLP.path, 600, seek_offset=-1, legacy_boundary=True)
    assert (0, -1) in boundary_frame(legacy)


def test_the_published_reader_seeks_one_frame_early() -> None:
    shifted = VideoSource(EGOVLP.path, 600, seek_offset=-1)
    right = place_range_frames(EGOVLP, Span(3.0, 4.0), 4, chunks(18000))
    early = place_range_frames(shifted, Span(3.0, 4.0), 4, chunks(18000))
    assert early == [(chunk, frame - 1) for chunk, frame in right]


def test_a_clip_that_ends_at_the_end_of_the_last_chunk_needs_no_further_chunk() -> None:
    places = place_range_frames(EGOVLP, Span(599.0, 600.0), 4, chunks(18000))
    assert {chunk for chunk, _ in places} == {0}
    over = place_range_frames(EGOVLP, Span(599.0, 601.0), 4, chunks(18000))
    assert over[-1] == (0, 17999)


@pytest.mark.parametrize("place", [place_segment_frames, place_range_frames])
def test_a_probed_rate_turns_seconds_into_that_files_frames(
    place: Callable[..., list[tuple[int, int]]],
) -> None:
    facts = chunks(600, fps=60.0)
    probed = place(VideoSource(Path("v.mp4"), fps=None), Span(5.0, 6.0), 4, facts)
    assumed = place(VideoSource(Path("v.mp4")), Span(5.0, 6.0), 4, facts)
    assert 300 <= probed[0][1] < probed[-1][1] < 360
    assert 150 <= assumed[0][1] < assumed[-1][1] < 180


def test_a_draw_from_an_empty_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        segment_frame_ids(5, 5, 4, Random(0).randint)
