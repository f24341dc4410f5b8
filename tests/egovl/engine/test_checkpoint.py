from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import TensorProperties

from egovl.engine.checkpoint import Checkpointer, CheckpointError, TrainState, committed
from egovl.engine.folder import RunFolder, Superseded, next_attempt, write_json
from egovl.engine.metadata import SafeReader


def model_and_optimizer(seed: int = 0, width: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(4, model[0].in_features)).sum().backward()  # type: ignore[index, arg-type]
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list[dict[str, torch.Tensor]]]:
    """A run with checkpoints of steps 1 and 2, and the weights of both."""
    model, optimizer = model_and_optimizer()
    checkpointer = Checkpointer(RunFolder(tmp_path, 1))
    weights = []
    for number in (1, 2):
        checkpointer.save(TrainState(number, number * 4), model, optimizer, wait=True)
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        step(model, optimizer)
    return tmp_path, weights


def load(
    path: Path, width: int = 8
) -> tuple[TrainState | None, dict[str, torch.Tensor], torch.optim.Optimizer]:
    model, optimizer = model_and_optimizer(seed=1, width=width)
    state = Checkpointer(RunFolder(path, 2)).load_latest(model, optimizer)
    return state, model.state_dict(), optimizer


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(a[k], b[k]) for k in a | b)


def test_the_newest_checkpoint_brings_back_weights_optimizer_and_counters(
    saved: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    path, weights = saved
    state, found, optimizer = load(path)
    assert state == TrainState(2, 8)
    assert_same(found, weights[1])
    model, same = model_and_optimizer()
    step(model, same)
    for mine, his in zip(optimizer.state.values(), same.state.values(), strict=True):
        assert_same(mine, his)


@pytest.mark.parametrize("damage", ["half", "missing", "metadata", "mark"])
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(
    saved: tuple[Path, list[dict[str, torch.Tensor]]],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    path, weights = saved
    newest = path / "ckpt/step-2"
    data = next(newest.glob("*.distcp"))
    if damage == "half":
        os.truncate(data, data.stat().st_size // 2)
    elif damage == "missing":
        data.unlink()
    elif damage == "metadata":  # right size, wrong content: only reading finds out
        file = newest / ".metadata"
        file.write_bytes(b"x" * file.stat().st_size)
    else:
        (newest / "COMMIT").write_text('{"step"')
    state, found, _ = load(path)
    assert state == TrainState(1, 4)
    assert_same(found, weights[0])
    assert "trying the checkpoint before it" in caplog.text
    assert "step-2" in caplog.text


def test_a_folder_without_commit_is_no_checkpoint(
    saved: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    path, _ = saved
    (path / "ckpt/step-2/COMMIT").unlink()
    state, _, _ = load(path)
    assert state == TrainState(1, 4)


def test_only_damaged_checkpoints_are_an_error_and_never_a_silent_restart(
    saved: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    path, _ = saved
    for data in path.glob("ckpt/step-*/*.distcp"):
        os.truncate(data, 10)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load(path)


def test_a_new_run_has_nothing_to_load(tmp_path: Path) -> None:
    assert load(tmp_path)[0] is None


def test_old_checkpoints_are_pruned_and_two_stay(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    checkpointer = Checkpointer(RunFolder(tmp_path, 1), keep=2)
    for number in (1, 2, 3, 10):
        checkpointer.save(TrainState(number, number), model, optimizer, wait=True)
    assert committed(tmp_path / "ckpt") == ([10, 3], [])


def test_a_newer_attempt_forbids_the_commit(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    write_json(tmp_path / "attempts/2/claim.json", {})
    with pytest.raises(Superseded, match="attempt 2 holds"):
        Checkpointer(RunFolder(tmp_path, 1)).save(TrainState(1, 1), model, optimizer, wait=True)
    assert committed(tmp_path / "ckpt") == ([], [])
    assert next_attempt(tmp_path) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "egovl-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root (and the right to mount) for a disk of 1 MiB")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_older_checkpoint_valid(small_disk: Path) -> None:
    model, optimizer = model_and_optimizer(width=128)  # about 200 kB a checkpoint
    checkpointer = Checkpointer(RunFolder(small_disk, 1))
    checkpointer.save(TrainState(1, 1), model, optimizer, wait=True)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 700_000)
    with pytest.raises(CheckpointError, match=r"could not save step-2: .*MiB free"):
        checkpointer.save(TrainState(2, 2), model, optimizer, wait=True)
    assert committed(small_disk / "ckpt") == ([1], [])
    assert load(small_disk, width=128)[0] == TrainState(1, 1)
    filler.unlink()
    checkpointer.save(TrainState(3, 3), model, optimizer, wait=True)
    assert committed(small_disk / "ckpt")[0] == [3, 1]


def test_metadata_that_would_run_code_is_refused(
    saved: tuple[Path, list[dict[str, torch.Tensor]]], tmp_path: Path
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    folder = saved[0] / "ckpt/step-2"
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"system.*tampered"):
        SafeReader(str(folder)).read_metadata()
    assert not (tmp_path / "ran").exists()


def test_metadata_of_a_newer_torch_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = TensorProperties.__getstate__
    with monkeypatch.context() as newer:
        newer.setattr(TensorProperties, "__getstate__", lambda self: (*old(self), "more"))
        model, optimizer = model_and_optimizer()
        Checkpointer(RunFolder(tmp_path, 1)).save(TrainState(1, 4), model, optimizer, wait=True)
    other, optimizer = model_and_optimizer(seed=1)
    assert Checkpointer(RunFolder(tmp_path, 2)).load_latest(other, optimizer) is not None
    assert torch.equal(other[0].weight, model[0].weight)  # type: ignore[index, arg-type]


def test_the_commit_lists_every_file_with_its_size(
    saved: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    folder = saved[0] / "ckpt/step-2"
    record = json.loads((folder / "COMMIT").read_text())
    assert record["step"] == 2
    assert record["samples"] == 8
    assert record["attempt"] == 1
    sizes = {f.name: f.stat().st_size for f in folder.iterdir() if f.name != "COMMIT"}
    assert record["files"] == sizes


def test_a_parameter_that_no_step_used_resumes_as_new(tmp_path: Path) -> None:
    def parts() -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"child": nn.Linear(3, 3), "parent": nn.Linear(3, 3)})
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def use(model: nn.ModuleDict, optimizer: torch.optim.Optimizer, part: str) -> None:
        model[part](torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    unbroken, its_optimizer = parts()
    use(unbroken, its_optimizer, "child")
    checkpointer = Checkpointer(RunFolder(tmp_path, 1))
    checkpointer.save(TrainState(1, 4), unbroken, its_optimizer, wait=True)
    resumed, new_optimizer = parts()
    state = checkpointer.load_latest(resumed, new_optimizer)
    assert state is not None and state.step == 1
    assert len(new_optimizer.state) == 2  # of the child alone, as it was
    for part in ("parent", "child", "parent"):
        use(unbroken, its_optimizer, part)
        use(resumed, new_optimizer, part)
    for one, other in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
