from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from egovl.convert.unpickle import CheckpointError, Stub, attributes, load_checkpoint, load_pickle


class Bomb:
    """Pickles to a call of `os.system`."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_a_hostile_pickle_does_not_execute(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    content = {"state_dict": {"w": torch.ones(2)}, "args": Bomb(f"touch {proof}")}
    checkpoint = load_checkpoint(save(tmp_path / "bad.pth", content))
    assert not proof.exists()
    assert isinstance(checkpoint.extra["args"], Stub)
    assert checkpoint.state["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "payload",
    [
        b'cbuiltins\neval\n(S\'open("%s", "w")\'\ntR.',
        b"cos\nsystem\n(S'touch %s'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch %s'\ntR.",
        b"csubprocess\nPopen\n((S'touch'\nS'%s'\nltR.",
    ],
)
def test_hand_written_pickles_do_not_execute(tmp_path: Path, payload: bytes) -> None:
    proof = tmp_path / "executed"
    file = tmp_path / "payload.pkl"
    file.write_bytes(payload % str(proof).encode())
    refusals = (TypeError, AttributeError, pickle.UnpicklingError)
    with file.open("rb") as source, contextlib.suppress(*refusals):
        load_pickle(source)
    assert not proof.exists()


def test_a_pickle_cannot_alter_a_class_of_this_process(tmp_path: Path) -> None:
    # BUILD on a class object would set attributes of the class itself
    file = tmp_path / "alter.pkl"
    file.write_bytes(b"cargparse\nNamespace\n(N(dS'injected'\nI1\nstb.")
    with file.open("rb") as source, pytest.raises((TypeError, AttributeError)):
        load_pickle(source)
    assert not hasattr(argparse.Namespace, "injected")


def test_objects_of_unknown_classes_become_stubs_that_keep_their_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("parse_config")

    class ConfigParser:
        def __init__(self) -> None:
            self.save_dir = Path("results/models")
            self.config = OrderedDict(lr=3e-5)
            self.flags = argparse.Namespace(resume=None)

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    module.ConfigParser = ConfigParser
    monkeypatch.setitem(sys.modules, "parse_config", module)
    content = {
        "arch": "DistributedDataParallel",
        "state_dict": OrderedDict({"module.w": torch.ones(2, dtype=torch.float16)}),
        "config": ConfigParser(),
    }
    path = save(tmp_path / "egovlp.pth", content)
    monkeypatch.delitem(sys.modules, "parse_config")

    checkpoint = load_checkpoint(path)

    config = attributes(checkpoint.extra["config"])
    assert config["save_dir"] == PurePosixPath("results/models")
    assert config["config"] == {"lr": 3e-5}
    assert attributes(config["flags"]) == {"resume": None}
    assert "parse_config" not in sys.modules
    assert {k: v.dtype for k, v in checkpoint.state.items()} == {"w": torch.float32}


def test_training_arguments_are_read_and_the_optimizer_is_not(tmp_path: Path) -> None:
    args = argparse.Namespace(norm_embed=True, output_dir=Path("/runs/x"))
    content = {
        "epoch": 3,
        "state_dict": {"module.a": torch.arange(6.0).view(2, 3).t()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "args": args,
    }
    checkpoint = load_checkpoint(save(tmp_path / "lavila.pth", content))
    assert checkpoint.args == {"norm_embed": True, "output_dir": PurePosixPath("/runs/x")}
    assert checkpoint.extra["epoch"] == 3
    assert checkpoint.extra["optimizer"] is None
    torch.testing.assert_close(checkpoint.state["a"], torch.arange(6.0).view(2, 3).t())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_every_kind_of_tensor_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    shared = torch.arange(8).to(dtype)
    content = {"whole": shared, "view": shared[2:6:2], "scalar": shared[1], "none": shared[:0]}
    state = load_checkpoint(save(tmp_path / "x.pth", content)).state
    for name, tensor in content.items():
        want = tensor.float() if dtype.is_floating_point else tensor
        torch.testing.assert_close(state[name], want, atol=0, rtol=0)


def test_parameters_and_old_files_and_safetensors_open_too(tmp_path: Path) -> None:
    weight = torch.randn(2, 3)
    save(tmp_path / "parameter.pth", {"w": nn.Parameter(weight)})
    torch.save({"w": weight}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({"w": weight}, tmp_path / "w.safetensors")
    for name in ("parameter.pth", "old.pth", "w.safetensors"):
        torch.testing.assert_close(load_checkpoint(tmp_path / name).state["w"], weight)


def test_a_torchscript_archive_gives_its_weights_without_being_run(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3)), tmp_path / "clip.pt")
    state = load_checkpoint(tmp_path / "clip.pt").state
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.find(torch.full((64,), 7.25).numpy().tobytes())
    assert place > 0
    content[place + 5] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_cut_in_half_is_named_with_its_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    content = {"w": torch.full((64,), 7.25)}
    save_file(content, path) if suffix == "safetensors" else save(path, content)
    _cut(path)
    with pytest.raises(CheckpointError, match=rf"w\.{suffix} \(\d+ bytes\) cannot be read .*cut"):
        load_checkpoint(path)


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", {"w": torch.full((64,), 7.25)})
    _flip(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


def test_other_files_are_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "text.pth")
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("a.jpg", b"x")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        load_checkpoint(tmp_path / "photos.pth")
    with pytest.raises(CheckpointError, match="holds no weights; its entries"):
        load_checkpoint(save(tmp_path / "empty.pth", {"epoch": 1, "state_dict": {}}))
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(save(tmp_path / "list.pth", [torch.ones(1)]))
