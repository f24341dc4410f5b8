from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from egovl.__main__ import main
from egovl.convert.groundnlq import publish
from egovl.convert.save import save_checkpoint, save_weights
from egovl.data.prepare.encode import encode_video
from egovl.ground_page import FoundSpan, write_page
from egovl.models.configs import DualEncoderConfig, TextTowerConfig, VideoTowerConfig
from egovl.recipe import dump_model
from tests.egovl.models.grounder.test_grounder import TINY
from tests.jobs.browser import Browser, start_browser

FPS, SECONDS = 10, 12


@dataclass
class Files:
    video: Path
    grounder: Path
    tower: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A video, and weights of a tower and of a grounder on its features."""
    folder = tmp_path_factory.mktemp("ground")
    rng = np.random.default_rng(0)
    frames = [np.full((32, 32, 3), 20 * (n // FPS), np.uint8) for n in range(FPS * SECONDS)]
    frames = [frame + rng.integers(0, 9, frame.shape, dtype=np.uint8) for frame in frames]
    encode_video(folder / "a kitchen & more.mp4", frames, FPS)
    tower = DualEncoderConfig(
        video=VideoTowerConfig(
            image_size=32, patch_size=16, width=8, depth=1, heads=2, num_frames=4
        ),
        text=TextTowerConfig(vocab_size=49408, context_length=24, width=8, heads=2, depth=1),
        embed_dim=8,
    )
    grounder = replace(TINY, video_dim=8, text_dim=8)
    torch.manual_seed(0)
    found = Files(
        folder / "a kitchen & more.mp4", folder / "g.safetensors", folder / "t.safetensors"
    )
    for file, config in ((found.grounder, grounder), (found.tower, tower)):
        save_weights(file, config.build().state_dict(), config=dump_model(config))
    assert yaml.safe_load(dump_model(grounder))["model"]["name"] == "grounder"
    return found


def words_of(files: Files, page: Path, *more: str) -> list[str]:
    return [
        "ground",
        *("--video", str(files.video), "--checkpoint", str(files.grounder)),
        *("--tower", str(files.tower), "--out", str(page), "--fps", "8", *more),
    ]


def test_a_question_is_answered_with_spans_inside_of_the_video(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert (
        main(words_of(files, page, "--query", "where is it?", "--query", "who <b>was</b> there"))
        == 0
    )
    printed = capsys.readouterr().out
    assert "where is it?" in printed
    text = page.read_text()
    assert "who &lt;b&gt;was" in text
    answers = json.loads(text.split('id="answers">')[1].split("</script>")[0])
    assert list(answers) == ["where is it?", "who <b>was</b> there"]
    for spans in answers.values():
        assert 1 <= len(spans) <= 5
        for span in spans:
            assert 0 <= span["start_sec"] <= span["end_sec"] <= SECONDS
    assert len(list((tmp_path / "page.pictures").glob("*.jpg"))) == sum(map(len, answers.values()))


def test_a_released_checkpoint_and_stored_features_serve_too(files: Files, tmp_path: Path) -> None:
    config = replace(TINY, video_dim=8, text_dim=8, window=(9,), heads=4)
    released = tmp_path / "epoch_004.pth.tar"
    save_checkpoint(released, publish(config.build().state_dict(), None))
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    page = tmp_path / "page.html"
    words = words_of(replace(files, grounder=released), page, "--query", "where?")
    words = [word for word in words if word not in ("--fps", "8")]  # as long as the video
    assert main([*words, "--features", str(tmp_path / "f.npy")]) == 0
    assert page.is_file()


def test_what_the_user_must_change_is_named(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    np.save(tmp_path / "wide.npy", np.zeros((24, 9), np.float32))
    missing = replace(files, video=tmp_path / "no.mp4")
    swapped = replace(files, grounder=files.tower)
    for words, message in (
        (words_of(files, page, "--query", " ?"), "asks nothing"),
        (words_of(missing, page, "--query", "where?"), "no video at"),
        (words_of(swapped, page, "--query", "where?"), "no grounder"),
        (
            words_of(files, page, "--query", "x", "--features", str(tmp_path / "wide.npy")),
            "width 9, the grounder was trained on 8",
        ),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not page.exists()


def played_at(browser: Browser) -> float:
    return float(browser.run("document.querySelector('video').currentTime"))


def test_a_click_on_a_span_plays_it_in_a_browser(files: Files, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    spans = [FoundSpan(3.0, 5.0, 0.9), FoundSpan(8.0, 9.5, 0.4)]
    write_page(page, files.video, {"where is it?": spans, "nowhere": []}, float(SECONDS))
    with start_browser(tmp_path / "profile") as browser:
        browser.size(1000, 800)
        browser.open(page)
        assert browser.run("document.querySelectorAll('.line button').length") == 2
        assert browser.run("document.querySelectorAll('li img').length") == 2
        assert browser.run("[...document.images].every(i => i.naturalWidth > 0)")
        box = browser.run(
            "(() => { const line = document.querySelector('.line').getBoundingClientRect();"
            " const mark = document.querySelector('.line button').getBoundingClientRect();"
            " return [(mark.x - line.x) / line.width, mark.width / line.width]; })()"
        )
        assert box == pytest.approx([0.25, 2 / 12], abs=0.01)
        assert browser.run("document.body.scrollWidth <= innerWidth")
        browser.click("li:nth-child(2) button")
        browser.wait("document.querySelectorAll('.playing').length === 2")
        if browser.run("document.querySelector('video').error === null"):  # it has the codec
            browser.wait("document.querySelector('video').currentTime >= 7.9")
            assert played_at(browser) < 9.9
        browser.size(390, 800, is_dark=True)
        assert browser.run("document.body.scrollWidth <= innerWidth")
        assert "Nothing found" in browser.run("document.body.innerText")
        assert browser.errors == []
