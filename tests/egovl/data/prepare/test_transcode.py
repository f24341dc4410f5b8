"""Transcoding: every frame where its second is, chunk borders, damage, going on after a stop."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from egovl.data.decode import DecodeError, open_reader
from egovl.data.prepare.configs import EncodingConfig
from egovl.data.prepare.transcode import Transcoded, scaled_size, transcode
from tests.egovl.data.numbered_video import read_numbers, write_video
from tests.real_data import REAL_DATA

REAL = REAL_DATA / "video"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"real videos absent: no {REAL}")
UNSCALED = EncodingConfig(short_side=None, chunk_sec=1)


def run(source: Path, config: EncodingConfig = UNSCALED) -> Transcoded:
    return transcode(source, lambda number: source.parent / f"chunks/{number}.mp4", config)


def shown(path: Path) -> list[int]:
    reader = open_reader(path)
    return read_numbers(reader.read(range(reader.num_frames)))


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_chunks_hold_every_frame_once(tmp_path: Path, b_frames: int, suffix: str) -> None:
    made = run(write_video(tmp_path / f"a.{suffix}", 75, b_frames=b_frames))
    assert made.frames == (30, 30, 15)
    assert [number for path in made.files for number in shown(path)] == list(range(75))
    assert (made.lost, made.repeated, made.left_out) == (0, 0, 0)


def test_chunks_have_keyframes_every_15_frames_and_no_b_frames(tmp_path: Path) -> None:
    made = run(write_video(tmp_path / "a.mp4", 60, b_frames=2), EncodingConfig())
    with av.open(str(made.files[0])) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        assert not stream.codec_context.has_b_frames
    assert [k for k, p in enumerate(packets) if p.is_keyframe] == [0, 15, 30, 45]
    assert all(p.pts == p.dts for p in packets)


def test_a_whole_number_of_chunks_has_no_empty_one_behind(tmp_path: Path) -> None:
    assert run(write_video(tmp_path / "a.mp4", 60)).frames == (30, 30)


@pytest.mark.parametrize(
    ("rate", "numbers", "repeated", "left_out"),
    [(15, [0, 1, 1, 2, 2, 3], 13, 0), (60, [0, 2, 4, 6, 8], 0, 15)],
)
def test_frames_stand_where_their_second_is_at_another_rate(
    tmp_path: Path, rate: int, numbers: list[int], repeated: int, left_out: int
) -> None:
    source = write_video(tmp_path / "a.mp4", rate // 2 if rate == 60 else 14, rate=rate)
    made = run(source, EncodingConfig(short_side=None, fps=30))
    found = shown(made.files[0])
    for place, number in enumerate(found):
        assert abs(place / 30 - number / rate) <= 0.5 / 30 + 0.5 / rate
    assert made.source_fps == rate
    assert (made.repeated > 0) == (repeated > 0)
    assert (made.left_out > 0) == (left_out > 0)
    assert len(set(found)) + made.left_out == (30 if rate == 60 else 14)


def test_a_stopped_video_goes_on_at_the_first_missing_chunk(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 140, b_frames=2)
    first = run(source)
    kept = [path.stat().st_mtime_ns for path in first.files[:2]]
    for path in first.files[2:]:
        path.unlink()
    second = run(source)
    assert second == first
    assert [path.stat().st_mtime_ns for path in second.files[:2]] == kept
    assert [number for path in second.files for number in shown(path)] == list(range(140))
    assert run(source).frames == first.frames  # nothing was missing


def test_a_cut_chunk_is_made_again(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 70)
    first = run(source)
    write_video(first.files[1], 12)
    assert run(source).frames == (30, 30, 10)
    assert shown(first.files[1]) == list(range(30, 60))


def test_damage_beyond_the_share_is_refused_and_below_it_counted(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 300)
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = os.urandom(400)
    source.write_bytes(data)
    with pytest.raises(DecodeError, match="damaged"):
        run(source, EncodingConfig(short_side=None, max_lost_share=0))
    lenient = run(source, EncodingConfig(short_side=None, max_lost_share=0.5))
    assert 0 < lenient.lost < 150
    assert sum(lenient.frames) == 300
    found = shown(lenient.files[0])
    assert found[:60] == list(range(60))
    assert found[-30:] == list(range(270, 300))


def test_a_cut_off_source_is_refused(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mkv", 300)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with av.open(str(source)) as container:
        assert container.duration or container.streams.video[0].duration
    with pytest.raises(DecodeError):
        run(source)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (("text.mp4", "Invalid"), ("pipe.mp4", "no regular"), ("no.mp4", "regular")):
        with pytest.raises(DecodeError, match=words):
            run(tmp_path / name)
    assert not list(tmp_path.glob("chunks/*"))


def test_sizes_are_even_and_never_grow() -> None:
    sides = EncodingConfig(short_side=256)
    assert scaled_size(1080, 1920, sides) == (256, 454)
    assert scaled_size(1920, 1080, sides) == (454, 256)
    assert scaled_size(240, 427, sides) == (240, 426)
    tall = EncodingConfig(short_side=256, resize="height")
    assert scaled_size(1920, 1080, tall) == (256, 144)


@needs_real
@pytest.mark.parametrize("name", ["video_90.mov", "video_180.mov", "video_270.mov"])
def test_a_rotated_video_comes_out_upright(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_bytes((REAL / name).read_bytes())
    made = run(source, EncodingConfig(short_side=160, crf=10))
    before, after = open_reader(source).read([0])[0], open_reader(made.files[0]).read([0])[0]
    height, width = before.shape[:2]
    assert (
        made.size == after.shape[:2] == scaled_size(height, width, EncodingConfig(short_side=160))
    )
    small = before[:: height // 20, :: width // 20].astype(float)[:20, :20]
    rows = np.arange(0, height, height // 20)[:20] * after.shape[0] // height
    columns = np.arange(0, width, width // 20)[:20] * after.shape[1] // width
    assert np.abs(small - after[rows][:, columns]).mean() < 12


@needs_real
def test_chunks_tuned_for_decoding_carry_no_arithmetic_coding(tmp_path: Path) -> None:
    source = tmp_path / "ego.mp4"
    source.write_bytes((REAL / "ego4d_3c0dffd0_012_014.mp4").read_bytes())
    fast, plain = EncodingConfig(short_side=64), EncodingConfig(short_side=64, tune=None)
    for config, settings in ((fast, b"cabac=0"), (plain, b"cabac=1")):
        made = run(source, config)
        assert settings in made.files[0].read_bytes()  # x264 writes them into the stream
        made.files[0].unlink()


@needs_real
def test_a_real_egocentric_clip_keeps_its_frames(tmp_path: Path) -> None:
    source = tmp_path / "ego.mp4"
    source.write_bytes((REAL / "ego4d_3c0dffd0_012_014.mp4").read_bytes())
    made = run(source, EncodingConfig(short_side=224, fps=30))
    before = open_reader(source)
    assert sum(made.frames) == before.num_frames
    assert min(made.size) == 224
