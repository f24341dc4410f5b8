"""Timed narrations of a video file: subtitles, a page, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egovl.__main__ import main
from egovl.convert.save import save_weights
from egovl.data.prepare.synthetic_narrator import write_tokenizer
from egovl.models.configs import VideoTowerConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, PoolerConfig
from egovl.recipe import dump_model
from tests.egovl.data.numbered_video import write_video

CONFIG = NarratorConfig(
    video=VideoTowerConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2, num_frames=4),
    pooler=PoolerConfig(queries=4, heads=2, head_width=8),
    decoder=GPT2Config(
        vocab_size=300, context_length=12, width=16, depth=1, heads=2, cross_every=1
    ),
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A random narrator, its tokenizer and a video of ten seconds."""
    write_tokenizer(["c opens the door"], tmp_path / "gpt2")
    size = len((tmp_path / "gpt2/merges.txt").read_text().splitlines()) + 256
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, vocab_size=size))
    weights = config.build().state_dict()
    save_weights(tmp_path / "narrator.safetensors", weights, config=dump_model(config))
    write_video(tmp_path / "kitchen.mp4", 300)
    return tmp_path


def narrate(folder: Path, *words: str) -> int:
    return main(["narrate", "--out", str(folder / "out"), *words])


def test_a_video_gets_subtitles_and_a_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--video", str(files / "kitchen.mp4"), "--tokenizer", str(files / "gpt2"))
    words += ("--checkpoint", str(files / "narrator.safetensors"), "--samples", "2")
    assert narrate(files, *words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in shown[:3]] == [
        "0:00:00.0 - 0:00:03.3",
        "0:00:03.3 - 0:00:06.7",
        "0:00:06.7 - 0:00:10.0",
    ]
    subtitles = (files / "out/kitchen.srt").read_text().split("\n\n")
    assert subtitles[1].splitlines()[:2] == ["2", "00:00:03,333 --> 00:00:06,667"]
    page = (files / "out/kitchen.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 4
    assert page.count("<time>") == 3
    first = [line.split("  ")[1] for line in shown[:3]]
    assert narrate(files, *words) == 0  # the same seed writes the same
    again = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in again[:3]] == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--video", "nowhere.mp4"), "no such file"),
        (("--checkpoint", "nowhere.pth"), "nowhere.pth"),
        (("--seconds", "0"), "above 0"),
        (("--tokenizer", "nowhere"), "vocab.json"),
    ],
)
def test_what_is_not_there_is_named(
    files: Path, change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "--video": str(files / "kitchen.mp4"),
        "--checkpoint": str(files / "narrator.safetensors"),
        "--tokenizer": str(files / "gpt2"),
    }
    given |= {change[0]: change[1]}
    assert narrate(files, *(word for pair in given.items() for word in pair)) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_tokenizer_asks_for_one(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--video", str(files / "kitchen.mp4"))
    assert narrate(files, *words, "--checkpoint", str(files / "narrator.safetensors")) == 2
    assert "--tokenizer DIR" in capsys.readouterr().err


def test_a_corpus_and_a_video_are_not_asked_for_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["narrate"]) == 2
    assert "--config RECIPE" in capsys.readouterr().err
