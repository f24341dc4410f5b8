"""Egoinstructor's ego features: the real clips through the command, into a store with its facts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.__main__ import main
from egovl.convert import egoinstructor
from egovl.data.datasets.second_features import SecondFeatures
from egovl.data.decode import open_reader
from egovl.data.features import open_features
from egovl.data.transforms import eval_crop, normalize_video
from egovl.models.ego_feature_encoder import EgoFeatureEncoder
from egovl.recipe import load_recipe
from tests.architecture.source import ROOT
from tests.real_data import REAL_DATA

CLIPS = REAL_DATA / "egoinstructor"
RECIPE = ROOT / "configs/debug/ego_features.yaml"


def release(model: EgoFeatureEncoder, file: Path) -> None:
    """Weights of ours in a file as the published one is laid out."""
    state = egoinstructor.EGO_ENCODER_KEYS.publish(model.state_dict())
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, file)


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips in {CLIPS} (EGOVL_TEST_DATA)")
@pytest.mark.parametrize("origin", ["egoinstructor", "auto"])
def test_the_command_writes_one_feature_a_second_of_the_real_clips(
    origin: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load_recipe(RECIPE).model.build().eval()
    weights, out = tmp_path / "released.pth", tmp_path / "store"
    release(model, weights)
    clips = sorted(CLIPS.glob("*_ego.mp4"))
    assert len(clips) == 2
    files = ", ".join(f"'{clip}'" for clip in clips)
    words = [
        f"init={{origin: {origin}, file: {weights}}}",
        *("features.dataset.manifest=null", f"features.dataset.files=[{files}]"),
        *(f"features.out={out}", "features.loader.num_workers=0"),
    ]
    assert main(["extract", "--config", str(RECIPE), *words]) == 0
    store = open_features(out)
    assert list(store.names()) == [clip.stem for clip in clips]
    facts = store.facts
    assert (facts.fps, facts.window_frames, facts.stride_frames) == (8.0, 8, 8)
    assert (facts.width, facts.layer, facts.projection) == (32, "mean", True)
    assert facts.weight_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    for clip in clips:
        reader = open_reader(clip)
        seconds = int(reader.num_frames / reader.fps)
        found = store.read(clip.stem)
        assert found.shape == (seconds, 32)
        last = seconds - 1
        ids = [round((8 * last + k) * reader.fps / 8) for k in range(8)]
        frames = torch.as_tensor(reader.read(ids))
        pixels = normalize_video(eval_crop(frames, 64, antialias=True)[None], "clip")
        with torch.no_grad():
            expected = model.encode_video(pixels)[0]
        np.testing.assert_allclose(found[last], expected.numpy(), atol=1e-5)
        assert SecondFeatures(out).length(f"{clip.stem}.mp4") == seconds


def test_the_published_recipe_has_the_published_sizes() -> None:
    config = load_recipe(ROOT / "configs/egoinstructor/ego_features.yaml").model
    with torch.device("meta"):
        model = config.build()
    shapes = {
        name: tuple(value.shape)
        for name, value in egoinstructor.EGO_ENCODER_KEYS.publish(model.state_dict()).items()
    }
    assert shapes["visual.patch_embed.proj.weight"] == (1024, 3, 2, 16, 16)
    assert shapes["visual.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["visual.blocks.23.mlp.fc1.weight"] == (4096, 1024)
    assert shapes["image_projection"] == (1024, 768)
    assert shapes["positional_embedding"] == (77, 768)
    assert "visual.blocks.24.norm1.weight" not in shapes
    assert config.num_tokens == 784
