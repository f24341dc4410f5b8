"""`python -m egovl export`: a run's weights, or their moving average, as one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from egovl import config as configuration
from egovl.__main__ import main
from egovl.convert.groundnlq import NORMALIZER, publish
from egovl.convert.own import read_weights_file
from egovl.convert.released import convert_released
from egovl.convert.unpickle import load_checkpoint
from egovl.engine.average import WeightAverage
from egovl.engine.checkpoint import Checkpointer, TrainState
from egovl.engine.folder import RunFolder
from egovl.recipe import load_recipe, model_config
from egovl.trained import load_trained

RECIPE = Path(__file__).parents[2] / "configs/debug/grounding.yaml"
DECAY = 0.9
STEPS = 3


def trained(
    folder: Path, *words: str, averaged: bool = True
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A run folder of a few steps; the model, and the average worked out by hand."""
    recipe = load_recipe(RECIPE, ["model.width=8", "model.neck_dim=8", "model.head_dim=8", *words])
    torch.manual_seed(0)
    model = recipe.model.build()
    run = RunFolder(folder, 1)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configuration.dump(recipe))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saver = Checkpointer(run)
    if averaged:
        saver.average = WeightAverage(model, DECAY)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    params = {name for name, _ in model.named_parameters()}
    for _ in range(STEPS):
        sum(param.square().sum() for param in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
        model.get_buffer(NORMALIZER).add_(1)
        if saver.average is not None:
            saver.average.update(model)
        for name, tensor in model.state_dict().items():
            own = expected[name]
            expected[name] = (
                DECAY * own + (1 - DECAY) * tensor if name in params else tensor.clone()
            )
    saver.save(TrainState(step=STEPS, samples=STEPS), model, optimizer, wait=True)
    return model, expected


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected)


def test_the_file_holds_the_average_and_makes_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, average = trained(tmp_path / "run")
    raw, ema = tmp_path / "raw.safetensors", tmp_path / "ema.safetensors"
    assert main(["export", "--run-dir", str(tmp_path / "run"), "--out", str(raw)]) == 0
    assert main(["export", "--run-dir", str(tmp_path / "run"), "--out", str(ema), "--ema"]) == 0
    assert f"{ema}: {len(average)} averaged tensors of step {STEPS}" in capsys.readouterr().out
    described, found = read_weights_file(ema)
    assert model_config(described, ema) == model.config
    assert_close(found, average)
    assert_close(read_weights_file(raw)[1], dict(model.state_dict()))
    name = "video_embed.convs.0.weight"
    assert not torch.equal(found[name], model.state_dict()[name])
    again = load_trained(ema, type(model)).state_dict()
    assert torch.equal(again[name], found[name])


def test_the_published_layout_holds_both_under_the_same_names(tmp_path: Path) -> None:
    model, average = trained(tmp_path / "run")
    out = tmp_path / "epoch_009.pth.tar"
    words = ["export", "--run-dir", str(tmp_path / "run"), "--out", str(out), "--to", "groundnlq"]
    assert main(words) == 0
    content = torch.load(out, weights_only=True)
    expected = publish(model.state_dict(), average)
    assert content["state_dict"].keys() == content["state_dict_ema"].keys()
    assert set(content["state_dict_ema"]) == set(expected["state_dict_ema"])
    assert_close(content["state_dict_ema"], expected["state_dict_ema"])
    assert_close(content["state_dict"], expected["state_dict"])
    assert len(content["state_dict"]) == len(average) - 1  # the loss's normaliser stays here
    back = convert_released(out, "groundnlq", strict=True, averaged=True).weights
    assert_close(*({n: t for n, t in x.items() if n != NORMALIZER} for x in (back, average)))


def test_a_run_without_an_average_says_how_to_keep_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained(tmp_path / "run", averaged=False)
    for out, layout in (("x.safetensors", "egovl"), ("x.pth.tar", "groundnlq")):
        words = ["export", "--run-dir", str(tmp_path / "run"), "--out", str(tmp_path / out)]
        assert main([*words, "--to", layout, "--ema"]) == 2
        told = capsys.readouterr().err
        assert "step-3 holds no average of weights; set trainer.ema_decay to keep one" in told
        assert not (tmp_path / out).exists()
    assert main([*words, "--to", "groundnlq"]) == 0
    assert_close(
        dict(load_checkpoint(tmp_path / "x.pth.tar").state),
        publish(model.state_dict(), None)["state_dict_ema"],
    )


def test_wrong_words_and_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, out, layout, message in (
        ("none", "x.safetensors", "egovl", "none is no run folder: it has no config.yaml"),
        ("none", "x.pth", "egovl", "a file for egovl ends in .safetensors"),
        ("none", "x.safetensors", "groundnlq", "a file for groundnlq ends in .tar"),
    ):
        words = ["export", "--run-dir", str(tmp_path / run), "--out", str(tmp_path / out)]
        assert main([*words, "--to", layout]) == 2
        assert message in capsys.readouterr().err
