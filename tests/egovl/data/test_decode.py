from __future__ import annotations

import os
import time
from pathlib import Path

import av
import numpy as np
import pytest

from egovl.data.decode import DecodeError, available_backends, choose_backend, open_reader
from egovl.data.reader_cache import ReaderCache
from tests.egovl.data.numbered_video import read_numbers, write_video

_CHECKOUT = Path(__file__).parents[3]
REAL = Path(os.environ.get("EGOVL_TEST_DATA", _CHECKOUT.parent / "shared" / "data")) / "video"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"real videos absent: no {REAL}")
each_backend = pytest.mark.parametrize("backend", available_backends())

SIZES = {  # height, width of the upright picture
    "ego4d_3c0dffd0_012_014.mp4": (288, 384),
    "flipping_a_pancake.mkv": (240, 426),
    "video_0.mov": (320, 568),
    "video_90.mov": (568, 320),
    "video_180.mov": (320, 568),
    "video_270.mov": (568, 320),
}


def count_by_decoding(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@needs_real
@each_backend
@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_real_file_has_its_true_count_and_upright_size(name: str, backend: str) -> None:
    reader = open_reader(REAL / name, backend)
    assert reader.num_frames == count_by_decoding(REAL / name)
    assert reader.fps == pytest.approx(30.0, abs=0.01)
    last = reader.num_frames - 1
    assert reader.read([0, last]).shape == (2, *SIZES[name], 3)


@needs_real
@pytest.mark.parametrize("name", sorted(SIZES))
def test_all_back_ends_give_equal_pixels(name: str) -> None:
    readers = [open_reader(REAL / name, backend) for backend in available_backends()]
    count = readers[0].num_frames
    numbers = sorted({0, 1, count // 3, count // 2, count - 1})
    pictures = [reader.read(numbers) for reader in readers]
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)


@needs_real
@each_backend
def test_rotated_copies_show_the_same_scene_upright(backend: str) -> None:
    upright = open_reader(REAL / "video_0.mov", backend).read([0])[0].astype(float)
    for turns, name in ((1, "video_270.mov"), (2, "video_180.mov"), (3, "video_90.mov")):
        stored = _stored_picture(REAL / name)
        turned = open_reader(REAL / name, backend).read([0])[0]
        np.testing.assert_array_equal(turned, np.rot90(stored, turns))
    assert upright.std() > 10


def _stored_picture(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@needs_real
@each_backend
def test_a_damaged_real_file_fails_and_names_itself(backend: str) -> None:
    path = REAL / "corrupted.mp4"
    with pytest.raises(DecodeError, match=r"corrupted\.mp4"):
        reader = open_reader(path, backend)
        reader.read(range(reader.num_frames))


@each_backend
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_frame_asked_for_is_the_frame_read(
    tmp_path: Path, backend: str, b_frames: int, suffix: str
) -> None:
    path = write_video(tmp_path / f"v.{suffix}", 100, b_frames=b_frames)
    reader = open_reader(path, backend)
    assert reader.num_frames == 100
    for numbers in ([0, 1, 2], [97, 99], [14, 15, 16, 44], [50], [3, 98], list(range(100))):
        assert read_numbers(reader.read(numbers)) == numbers


@each_backend
@pytest.mark.parametrize("kept", [0.3, 0.6])
@pytest.mark.parametrize("flags", ["", "faststart"])
def test_a_truncated_file_fails_at_the_missing_part(
    tmp_path: Path, backend: str, kept: float, flags: str
) -> None:
    options = {"movflags": flags} if flags else {}
    path = write_video(tmp_path / "v.mp4", 200, container_options=options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DecodeError, match=r"v\.mp4"):
        open_reader(path, backend).read([180, 190])


def test_a_cut_file_with_its_index_in_front_still_gives_its_first_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 200, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    reader = open_reader(path, "pyav")
    with pytest.raises(DecodeError):
        reader.read([199])
    assert read_numbers(reader.read([0, 20])) == [0, 20]


@each_backend
@pytest.mark.parametrize("content", [b"", b"not a video"])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, backend: str, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="cannot open"):
        open_reader(path, backend)


def test_a_missing_file_and_a_frame_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no such file"):
        open_reader(tmp_path / "v.mp4")
    reader = open_reader(write_video(tmp_path / "v.mp4", 20))
    for numbers in ([20], [-1, 3]):
        with pytest.raises(DecodeError, match="of 20"):
            reader.read(numbers)
    assert read_numbers(reader.read([19])) == [19]


def test_an_unknown_back_end_lists_those_installed() -> None:
    with pytest.raises(ValueError, match=r"usable here: .*pyav"):
        choose_backend("opencv")
    assert choose_backend("auto") == available_backends()[0]


def test_readers_are_kept_open_and_the_oldest_is_closed(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{i}.mp4", 20) for i in range(3)]
    cache = ReaderCache("auto", capacity=2, timeout_sec=10)
    for path in (paths[0], paths[1], paths[0], paths[2], paths[0]):
        assert cache.facts(path).num_frames == 20
    assert cache.opened == 3
    cache.read(paths[1], [0])
    assert cache.opened == 4


def test_a_read_that_hangs_in_the_decoder_ends_and_the_file_is_not_tried_again(
    tmp_path: Path,
) -> None:
    hanging = tmp_path / "hanging.mp4"
    os.mkfifo(hanging)  # opening it blocks inside the C library until someone writes
    good = write_video(tmp_path / "good.mp4", 20)
    cache = ReaderCache("pyav", capacity=2, timeout_sec=0.3)
    cache.read(good, [0])
    start = time.monotonic()
    with pytest.raises(DecodeError, match=r"hanging.mp4.*no answer within 0\.3 s"):
        cache.read(hanging, [0])
    assert time.monotonic() - start < 5
    with pytest.raises(DecodeError, match="time limit before"):
        cache.read(hanging, [0])
    assert read_numbers(cache.read(good, [7])) == [7]
    os.close(os.open(hanging, os.O_RDWR | os.O_NONBLOCK))  # lets the abandoned thread go
