from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from jobs.agent import NodeAgent
from jobs.cluster import Cluster
from jobs.dry_run import render, sbatch_text
from jobs.errors import ConfigError, SubmitError
from jobs.run_folder import RunFolder
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec, Resources
from jobs.submit import Place, launch, run_folder_of

SPEC = JobSpec(
    kind="pretrain",
    name="base",
    arguments=("train", "--config", "configs/a.yaml"),
    resources=Resources(
        nodes=4, gpus_per_node=8, processes_per_node=8, partition="a100", time_limit_sec=7200
    ),
)
CLUSTER = Cluster("test", preamble=("module load cuda",))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    home = tmp_path / "home"
    home.mkdir()
    (home / "code.py").write_text("x = 1\n")
    return Place(home, tmp_path / "runs", tmp_path / "snapshots", argv=("pretrain.py", "--nodes=4"))


def test_folder_is_named_by_kind_name_work_and_code(place: Place) -> None:
    snapshot = take_snapshot(place.home, place.snapshots)
    first = run_folder_of(SPEC, place, snapshot).path
    assert first.parent == place.runs / "pretrain"
    assert first.name.startswith("base-")
    (place.home / "code.py").write_text("x = 2\n")
    assert run_folder_of(SPEC, place, take_snapshot(place.home, place.snapshots)).path != first


def test_batch_script_starts_one_agent_per_node_from_the_snapshot(place: Place) -> None:
    agent = NodeAgent("/runs/base run", "/snapshots/abc", "t0")
    lines = sbatch_text(RunFolder(Path("/runs/base run")), SPEC, CLUSTER, agent).splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "partition=a100"} <= flags
    assert {"signal=USR2@120", "requeue", "open-mode=append", "time=120"} <= flags
    assert "comment=egovl-t0" in flags
    body = [line for line in lines if line and not line.startswith("#")]
    assert body[0] == "module load cuda"
    assert "cd /snapshots/abc" in body
    srun = next(line for line in body if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in srun
    assert shlex.split(srun)[-3:] == ["-m", "submitit.core._submit", "/runs/base run/submission"]
    after = body.index(srun)
    assert body[after + 1] == "step_status=$?"
    assert body[after + 2] == "trap '' TERM USR2"
    assert shlex.split(body[after + 3]) == [
        *(sys.executable, "-m", "jobs.after_step", "/runs/base run", "t0", "$step_status")
    ]


def test_dry_run_prints_script_and_command_and_makes_no_run(place: Place) -> None:
    text = render(SPEC, CLUSTER, place, "slurm")
    assert "#SBATCH --nodes=4" in text
    assert "torch.distributed.run" in text
    assert "--nnodes=4" in text
    assert "train --config configs/a.yaml" in text
    assert not place.runs.exists()


def test_broken_configuration_is_refused_before_anything_exists(place: Place) -> None:
    (place.home / "judge.py").write_text(
        "import sys; sys.exit(f'no such key; asked with {sys.argv[1:]}')\n"
    )
    spec = JobSpec(kind="pretrain", name="base", module="judge", arguments=("train",))
    checked = Place(place.home, place.runs, place.snapshots, check=("check", "a=1"))
    with pytest.raises(ConfigError, match=r"no such key; asked with \['check', 'a=1'\]") as caught:
        launch(spec, CLUSTER, checked, "local")
    assert caught.value.exit_code == 2
    assert not place.runs.exists()


def test_several_nodes_need_slurm(place: Place) -> None:
    with pytest.raises(SubmitError, match="one node, 4 asked for"):
        launch(SPEC, CLUSTER, place, "local")


def test_slurm_that_is_not_there_leaves_no_folder(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = JobSpec(kind="pretrain", name="base", resources=Resources(nodes=2))
    with pytest.raises(SubmitError, match="srun"):
        launch(spec, CLUSTER, place, "slurm")
    assert not list((place.runs / "pretrain").iterdir())
    events = [json.loads(line) for line in (place.runs / ".ledger.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["submitting", "refused"]
