"""The demo command and retrieval on the real clips, with tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.__main__ import main
from egovl.caption import find_video, load_entries
from egovl.convert.save import save_weights
from egovl.data.caption_frames import spread_frame_ids
from egovl.data.clip_files import to_pixels
from egovl.data.decode import open_reader
from egovl.data.features import FeatureFacts, FeatureWriter
from egovl.models.captioner.configs import (
    CaptionerConfig,
    FrameEncoderConfig,
    MediaAttentionConfig,
    MPTConfig,
    ResamplerConfig,
)
from egovl.models.configs import TextTowerConfig
from egovl.models.view_configs import (
    EgoFeatureEncoderConfig,
    FeatureTowerConfig,
    ViewRetrieverConfig,
)
from egovl.recipe import dump_model
from tests.architecture.source import ROOT
from tests.parity.checks_egoinstructor_data import TOKENIZER
from tests.real_data import REAL_DATA

CLIPS = REAL_DATA / "egoinstructor"
TESTDATA = CLIPS / "testdata.json"
needs_clips = pytest.mark.skipif(
    not TESTDATA.is_file(), reason=f"the real clips are not there: {TESTDATA}"
)

CAPTIONER = CaptionerConfig(
    vision=FrameEncoderConfig(28, 14, 16, 32, 1, 2),
    resampler=ResamplerConfig(depth=1, heads=2, head_width=8, num_latents=3, max_frames=4),
    decoder=MPTConfig(vocab_size=340, width=32, depth=2, heads=4, context_length=512),
    media=MediaAttentionConfig(heads=2, head_width=8),
    train_all=True,
    gate_init=0.5,
)
RETRIEVER = ViewRetrieverConfig(
    video=FeatureTowerConfig(feature_width=16, num_frames=4, depth=1, heads=2),
    text=TextTowerConfig(vocab_size=49408, context_length=16, width=16, heads=2, depth=1),
    embed_dim=8,
)
SIZES = (
    "model.video={feature_width: 16, num_frames: 4, depth: 1, heads: 2}",
    "model.text={vocab_size: 49408, context_length: 16, width: 16, heads: 2, depth: 1}",
    "model.embed_dim=8",
)
EGO_ENCODER = EgoFeatureEncoderConfig(
    image_size=32, width=16, depth=1, heads=2, text=RETRIEVER.text, embed_dim=16
)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "captioner.safetensors"
    save_weights(file, CAPTIONER.build().state_dict(), config=dump_model(CAPTIONER))
    return file


@needs_clips
@pytest.mark.parametrize("shots", range(5))
def test_the_published_demo_file_is_captioned_as_it_is(
    shots: int, captioner: Path, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    words = ["caption", "--testdata", str(TESTDATA), "--checkpoint", str(captioner)]
    words += ["--tokenizer", str(TOKENIZER), "--max-shot", str(shots), "--out", str(out)]
    assert main([*words, "--max-new-tokens", "4"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["ego_video"]).name for line in lines] == [
        "test5199_ego.mp4",
        "test2895_ego.mp4",
    ]
    assert any(line["caption"] for line in lines)


def _write_features(names: list[str], out: Path) -> None:
    """A feature for each eight frames that are spread over the seconds of a real clip."""
    encoder = EGO_ENCODER.build().eval()
    writer = FeatureWriter(out, FeatureFacts(width=EGO_ENCODER.embed_dim))
    for name in names:
        reader = open_reader(CLIPS / f"{name}.mp4")
        seconds = max(1, int(reader.num_frames / reader.fps))
        ids = spread_frame_ids(reader.num_frames, 8 * seconds)
        kept = sorted(set(ids))
        frames = reader.read(kept)[[kept.index(i) for i in ids]]
        video = to_pixels(frames, EGO_ENCODER.image_size, as_float=True) / 255
        with torch.no_grad():
            features = encoder.encode_video(video.unflatten(0, (seconds, 8)).transpose(1, 2))
        writer.write(name, features.numpy())


@needs_clips
def test_the_real_clips_are_searched_and_the_supports_found_are_captioned_with(
    captioner: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    entries = json.loads(TESTDATA.read_text())
    ego = [Path(entry["ego_video"]).stem for entry in entries]
    exo = [
        (Path(support["path"]).stem, support["caption"])
        for entry in entries
        for support in entry["exo_video"]
    ]
    _write_features([*ego, *(name for name, _ in exo)], tmp_path / "features")
    retriever = tmp_path / "retriever.safetensors"
    save_weights(retriever, RETRIEVER.build().state_dict(), config=dump_model(RETRIEVER))
    for file, clips in (("ego", [(name, "#C C cooks") for name in ego]), ("exo", exo)):
        records = {
            str(i): {"vid": name, "start_second": 0, "end_second": 2, "text": text}
            for i, (name, text) in enumerate(clips)
        }
        (tmp_path / f"{file}.json").write_text(json.dumps(records))
    sources = [f"supports.{side}={tmp_path / side}.json" for side in ("ego", "exo")]
    features = [f"supports.{side}_features={tmp_path / 'features'}" for side in ("ego", "exo")]
    out = tmp_path / "supports"
    words = ["retrieve", "--config", str(ROOT / "configs/debug/supports.yaml"), *sources, *features]
    words += [f"supports.out={out}", "supports.files=E4DOL_test", "supports.seconds_per_feature=1"]
    words += ["supports.top=4", "supports.frames=4", "supports.shards=2", *SIZES]
    for shard in (0, 1):
        assert not (out / "E4DOL_test_config.json").exists()
        found = [f"supports.shard={shard}", f"init={{origin: auto, file: {retriever}}}"]
        assert main([*words, *found]) == 0
    caplog.clear()
    assert main([*words, *found, "supports.frames=5"]) == 2
    assert "holds records written with frames=4, asked 5" in caplog.text
    records = json.loads((out / "E4DOL_test_instructions.json").read_text())["data"]
    supports = json.loads((out / "E4DOL_test_config.json").read_text())
    assert list(supports) == ["E4DOL_INS_000000", "E4DOL_INS_000005"]
    found = [records[name] for name in supports["E4DOL_INS_000000"]]
    assert len({record["image_ids"][0]["vid"] for record in found}) == 4
    demo = [
        {
            "ego_video": f"{records[key]['image_ids'][0]['vid']}.mp4",
            "exo_video": [
                {
                    "path": f"{records[n]['image_ids'][0]['vid']}.mp4",
                    "caption": records[n]["answer"],
                }
                for n in names
            ],
        }
        for key, names in supports.items()
    ]
    for clip in CLIPS.glob("*.mp4"):
        (tmp_path / clip.name).symlink_to(clip)
    (tmp_path / "demo.json").write_text(json.dumps(demo))
    words = ["caption", f"--testdata={tmp_path / 'demo.json'}", f"--checkpoint={captioner}"]
    assert main([*words, f"--tokenizer={TOKENIZER}", "--max-new-tokens=2", "--beams=1"]) == 0


def test_a_video_that_is_nowhere_is_refused_naming_both_places(tmp_path: Path) -> None:
    file = tmp_path / "testdata.json"
    with pytest.raises(FileNotFoundError) as caught:
        find_video("./assets/clip.mp4", file)
    assert "assets/clip.mp4" in str(caught.value) and str(tmp_path / "clip.mp4") in str(
        caught.value
    )


def test_an_entry_with_too_few_supports_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "testdata.json"
    file.write_text(json.dumps([{"ego_video": "a.mp4", "exo_video": []}]))
    with pytest.raises(ValueError, match="entry 0: 0 supports, --max-shot 2"):
        load_entries(file, 2)


def test_the_demo_command_ends_with_2_where_the_file_is_missing(
    captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.json"
    words = ["caption", "--testdata", str(missing), "--checkpoint", str(captioner)]
    assert main(words) == 2
    assert str(missing) in capsys.readouterr().err


def test_features_are_finite_numbers() -> None:
    encoder = EGO_ENCODER.build().eval()
    with torch.no_grad():
        features = encoder.encode_video(torch.rand(2, 3, 8, 32, 32))
    assert features.shape == (2, 16) and np.isfinite(features.numpy()).all()
