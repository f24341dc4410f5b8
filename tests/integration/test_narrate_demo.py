"""The demo command on real egocentric and instructional videos, where they are at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egovl.__main__ import main
from egovl.convert.save import save_weights
from egovl.data.prepare.synthetic_narrator import write_tokenizer
from egovl.recipe import dump_model
from tests.architecture.source import ROOT
from tests.egovl.narration.test_demo import CONFIG

DATA = ROOT.parent / "shared/data"
VIDEOS = [
    path
    for folder in ("video", "egoinstructor")
    for path in sorted((DATA / folder).glob("*.m*"))
    if path.suffix in (".mp4", ".mov", ".mkv") and path.name != "corrupted.mp4"
]


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS, reason=f"no real videos at {DATA}")
def test_real_videos_are_narrated_by_a_random_narrator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tokenizer(["c opens the door"], tmp_path / "gpt2")
    size = len((tmp_path / "gpt2/merges.txt").read_text().splitlines()) + 256
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, vocab_size=size))
    save_weights(tmp_path / "n.safetensors", config.build().state_dict(), config=dump_model(config))
    for video in VIDEOS:
        words = ["narrate", "--video", str(video), "--checkpoint", str(tmp_path / "n.safetensors")]
        words += ["--tokenizer", str(tmp_path / "gpt2"), "--out", str(tmp_path / "out")]
        assert main(words) == 0, capsys.readouterr().err
        assert (tmp_path / "out" / f"{video.stem}.srt").read_text().startswith("1\n00:00:00,000")


@pytest.mark.skipif(not (DATA / "video/corrupted.mp4").is_file(), reason="no damaged video here")
def test_a_damaged_video_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tokenizer(["c opens the door"], tmp_path / "gpt2")
    save_weights(tmp_path / "n.safetensors", CONFIG.build().state_dict(), config=dump_model(CONFIG))
    words = ["narrate", "--video", str(DATA / "video/corrupted.mp4"), "--out", str(tmp_path)]
    words += ["--checkpoint", str(tmp_path / "n.safetensors")]
    assert main([*words, "--tokenizer", str(tmp_path / "gpt2")]) == 2
    assert "corrupted.mp4" in capsys.readouterr().err
