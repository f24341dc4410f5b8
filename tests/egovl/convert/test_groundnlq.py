from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egovl.convert.groundnlq import NORMALIZER, publish
from egovl.convert.initialize import Adaptation, find_origin, load_released
from egovl.convert.released import convert_released
from egovl.convert.released import publish as publish_as
from egovl.convert.save import save_checkpoint
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.models.configs import ClassifierConfig
from egovl.models.grounder.configs import GrounderConfig, Layers
from tests.egovl.models.grounder.test_grounder import TINY

RELEASED = replace(
    TINY,
    heads=4,
    window=(9,),
    max_length=2560,
    layers=Layers(embed=2, text=1, video=1, cross_branch=2, branch=1),
    legacy_text_padding=True,
    legacy_video_padding=True,
)


def file_of(config: GrounderConfig, path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    weights = config.build().state_dict()
    averaged = {name: tensor + 1 for name, tensor in weights.items()}
    save_checkpoint(path, publish(weights, averaged))
    return weights


def test_a_released_layout_goes_out_and_in_with_sizes_read_off_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "epoch_004.pth.tar"
    weights = file_of(RELEASED, file)
    assert find_origin(load_checkpoint(file).state) == "groundnlq"
    raw = convert_released(file, "groundnlq", strict=True)
    assert raw.config == RELEASED
    averaged = convert_released(file, "groundnlq", strict=True, averaged=True)
    for name, tensor in weights.items():
        assert torch.equal(raw.weights[name], tensor), name
        if name != NORMALIZER:
            assert torch.equal(averaged.weights[name], tensor + 1), name
    out = publish_as(raw.config, raw.weights, "groundnlq")
    assert out["state_dict"].keys() == load_checkpoint(file).state.keys()


def test_finetuning_takes_the_backbone_and_keeps_its_own_heads(tmp_path: Path) -> None:
    file = tmp_path / "epoch_005.pth.tar"
    weights = file_of(RELEASED, file)
    torch.manual_seed(1)
    model = RELEASED.build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_released(model, "groundnlq", file, Adaptation(heads=False))
    assert all("head" in name for name in report.dropped)
    for name, tensor in model.state_dict().items():
        own = name.startswith("heads.") or name == NORMALIZER
        assert torch.equal(tensor, (before if own else weights)[name]), name
    load_released(model, "groundnlq", file, Adaptation(weights="ema"))
    name = "video_embed.convs.0.weight"
    assert torch.equal(model.state_dict()[name], weights[name] + 1)


def test_another_model_is_refused_in_both_directions(tmp_path: Path) -> None:
    file = tmp_path / "epoch_004.pth.tar"
    file_of(RELEASED, file)
    with pytest.raises(CheckpointError, match="in the checkpoint and"):
        load_released(replace(RELEASED, width=16, neck_dim=16).build(), "groundnlq", file)
    with pytest.raises(CheckpointError, match="lavila has no model like a GrounderConfig"):
        publish_as(RELEASED, {}, "lavila")
    with pytest.raises(CheckpointError, match="no model like a ClassifierConfig"):
        publish_as(ClassifierConfig(heads={"x": 2}), {}, "groundnlq")
    bare = tmp_path / "bare.pth.tar"
    save_checkpoint(bare, {"state_dict": load_checkpoint(file).state})
    with pytest.raises(CheckpointError, match="raw weights only"):
        convert_released(bare, "groundnlq", averaged=True)
