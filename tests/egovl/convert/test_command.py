"""`python -m egovl convert`: files in, files out, key for key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from egovl.__main__ import main
from egovl.convert import egovlp, lavila
from egovl.convert.own import read_weights_file
from egovl.convert.unpickle import load_checkpoint
from egovl.models.configs import ClassifierConfig, DualEncoderConfig
from egovl.recipe import model_config
from tests.egovl.convert.test_released import (
    EGOVLP,
    LAVILA_BERT,
    LAVILA_CLIP,
    LAVILA_EGOVLP,
    LAVILA_GATED,
    VIDEO,
    published,
    random_model,
)


def convert(file: Path, origin: str, out: Path, *more: str) -> int:
    return main(["convert", str(file), "--origin", origin, "--out", str(out), *more])


def released(folder: Path, state: Mapping[str, Tensor], **beside: Any) -> Path:
    file = folder / "released.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, **beside}, file)
    return file


def assert_same_tensors(file: Path, state: Mapping[str, Tensor]) -> None:
    """Names with their prefix, shapes and values."""
    content = torch.load(file, weights_only=False)
    stored = {k.removeprefix("module."): v for k, v in content["state_dict"].items()}
    assert all(key.startswith("module.") for key in content["state_dict"])
    torch.testing.assert_close(stored, dict(state), atol=0, rtol=0)


@pytest.mark.parametrize("config", [LAVILA_CLIP, LAVILA_GATED, LAVILA_BERT, LAVILA_EGOVLP])
def test_a_lavila_file_comes_back_key_for_key(config: DualEncoderConfig, tmp_path: Path) -> None:
    state = published(random_model(config), lavila.DUAL_ENCODER_KEYS)
    file = released(tmp_path, state, args={"norm_embed": True})
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert convert(file, "lavila", ours, "--strict") == 0
    described, _ = read_weights_file(ours)
    assert replace(model_config(described, ours), temperature_init=0.07) == config
    assert convert(ours, "egovl", back, "--to", "lavila") == 0
    assert_same_tensors(back, state)
    assert load_checkpoint(back).args["norm_embed"] is True


def test_an_egovlp_file_comes_back_key_for_key_and_goes_to_lavila(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = published(random_model(EGOVLP), egovlp.DUAL_ENCODER_KEYS)
    file = released(tmp_path, state, arch="DistributedDataParallel", epoch=1)
    ours, back, theirs = (tmp_path / n for n in ("ours.safetensors", "back.pth", "lavila.pth"))
    assert convert(file, "egovlp", ours) == 0
    assert "missing, kept their initial value: logit_scale" in capsys.readouterr().out
    assert convert(ours, "egovl", back, "--to", "egovlp") == 0
    assert_same_tensors(back, state)
    assert convert(file, "egovlp", theirs, "--to", "lavila", "--half") == 0
    again = load_checkpoint(theirs)
    assert again.args["norm_embed"] is True
    assert again.args["project_embed_dim"] == 16
    assert again.state["logit_scale"].exp().item() == pytest.approx(1 / 0.07, rel=1e-3)
    assert lavila.dual_encoder_config(again.state, again.args) == LAVILA_EGOVLP
    stored = torch.load(theirs, weights_only=False)["state_dict"]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.parametrize("heads", [{"action": 7}, {"verb": 3, "noun": 4, "action": 7}])
def test_a_lavila_classifier_comes_back_key_for_key(heads: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ClassifierConfig(heads=heads, video=VIDEO)
    model = config.build()
    state = lavila.keys_of(config, {}).publish(model.state_dict())
    assert ("fc_cls.weight" in state) == (len(heads) == 1)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert convert(released(tmp_path, state), "lavila", ours, "--strict") == 0
    described, tensors = read_weights_file(ours)
    assert model_config(described, ours) == config
    torch.testing.assert_close(tensors, dict(model.state_dict()), atol=0, rtol=0)
    assert convert(ours, "egovl", back, "--to", "lavila") == 0
    assert_same_tensors(back, state)


def test_unknown_names_are_reported_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    file = released(tmp_path, state | {"visual.odd": torch.ones(2)})
    out = tmp_path / "x.safetensors"
    assert convert(file, "lavila", out, "--strict") == 2
    assert "no place in the model for 1 tensors: visual.odd" in capsys.readouterr().err
    assert not out.exists()
    assert convert(file, "lavila", out) == 0
    assert "unknown, left out: visual.odd" in capsys.readouterr().out
    assert "visual.odd" not in load_file(out)


def test_a_file_that_lacks_tensors_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    del state["visual.blocks.1.norm1.bias"]
    out = tmp_path / "x.safetensors"
    assert convert(released(tmp_path, state), "lavila", out) == 2
    assert "lacks 1 tensors: video.blocks.1.norm_space.bias" in capsys.readouterr().err


def test_wrong_words_are_refused_with_what_would_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path / "x.pth", "lavila", tmp_path / "y.pth") == 2
    assert "a file for egovl ends in .safetensors" in capsys.readouterr().err
    assert convert(tmp_path / "x.pth", "lavila", tmp_path / "y.safetensors") == 2
    assert "no checkpoint at" in capsys.readouterr().err
    state = published(random_model(LAVILA_CLIP), lavila.DUAL_ENCODER_KEYS)
    out = tmp_path / "y.pth"
    assert convert(released(tmp_path, state), "lavila", out, "--to", "egovlp") == 2
    assert "convert this model to lavila" in capsys.readouterr().err


def test_a_second_temperature_goes_where_lavila_keeps_it(tmp_path: Path) -> None:
    from egovl.convert.released import publish

    config = replace(LAVILA_CLIP, pseudo_temperature_init=0.1)
    content = publish(config, random_model(config).state_dict(), "lavila")
    assert "pseudo_logit_scale" not in content["state_dict"]
    assert content["criterion"]["logit_scale_pseudo"].shape == ()
