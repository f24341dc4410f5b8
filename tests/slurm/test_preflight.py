"""Nodes that are not fit: one is left out and the run goes on, all of them and the run fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.health import PreflightLimits
from jobs.run_folder import read_json
from tests.slurm.client import SlurmClient
from tests.slurm.journey import Journey, make_checkout
from tests.slurm.toy_run import NUM_NODES, launch_toy
from tests.slurm.waiting import wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.parametrize("slurm_session", ["cgroup"], indirect=True),
]

# What nvidia-smi prints for two cards: on one node, as long as a file lies there, with an error.
SMI = """#!/bin/sh
case "$1" in *query-gpu*) ;; *) exit 0 ;; esac
errors=0
if test "$SLURMD_NODENAME" = @node@ && test -e @sick@; then errors=3; fi
for gpu in 0 1; do
  echo "$gpu, GPU-$gpu, NVIDIA A100-SXM4-80GB, 81920, 4, $errors, 0x0000000000000001"
done
"""

# What Python runs first in a rank: on one node, as long as a file lies there, one number of every
# product is wrong.
SITE = """import os
here = os.environ.get("SLURMD_NODENAME") == "node2" and "RANK" in os.environ
if here and os.path.exists({sick!r}):
    import torch
    right = torch.Tensor.__matmul__
    def wrong(a, b):
        product = right(a, b)
        if product.is_floating_point():
            product[3, 5] += 1
        return product
    torch.Tensor.__matmul__ = wrong
"""


def test_run_that_no_node_has_room_for_fails_with_the_reason(
    slurm: SlurmClient, tmp_path: Path
) -> None:
    limits = PreflightLimits(free_gb=1e6)
    run = launch_toy(slurm, tmp_path, num_steps=200, preflight=limits)
    run.wait_end("failed")
    state = run.folder.read_state()
    assert (state["cause"], run.folder.attempt_numbers()) == ("preflight", [1])
    assert "every node is unfit for this job: node1: free_space: " in state["reason"]
    assert "the run needs 1000000.0 GB: free some" in state["reason"]


@pytest.mark.soak
def test_node_whose_products_are_wrong_trains_nothing_and_the_run_goes_on_without_it(
    slurm: SlurmClient, corpus: Path, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    sick.touch()
    project = make_checkout(tmp_path / "project", corpus, gpus=1, steps=6)
    (project / "sitecustomize.py").write_text(SITE.format(sick=str(sick)))
    small = ("model.video.width=32", "model.video.depth=1", "model.text.width=32")
    words = ("--nodes", "2", "--partition", "a100", *small, "evaluate.egomcq.every=40")
    run = Journey.launch(slurm, project, *words)
    run.wait_done()
    first, second = run.folder.attempt(1), run.folder.attempt(2)
    stop, outcome = read_json(first.stop_json) or {}, read_json(first.outcome_json) or {}
    assert (stop["reason"], stop["exclude"]) == ("preflight", ["node2"])
    assert "node2: gemm: 1 of 65536 numbers of a torch.float32 product are wrong" in stop["detail"]
    assert (outcome["state"], outcome["cause"], outcome["step_last"]) == (
        *("queued", "preflight", None),
    )
    assert [(read_json(first.exit_json(rank)) or {})["state"] for rank in (0, 1)] == ["stopped"] * 2
    assert {record["attempt"] for record in run.records()} == {2}
    last = read_json(second.outcome_json) or {}
    assert len(last["nodes"]) == 2 and "node2" not in last["nodes"]
    assert run.folder.read_state()["budgets"]["node_fail"] == 9
    for rank in (0, 1):
        report = read_json(second.rank_preflight_json(rank)) or {}
        checks = {check["name"]: check["state"] for check in report["checks"]}
        assert checks == dict.fromkeys(("gemm", "inputs", "all_reduce"), "passed")


@pytest.mark.soak
def test_sick_node_is_named_and_left_out_of_the_next_attempt(
    slurm: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = tmp_path / "sick"
    sick.touch()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(SMI.replace("@node@", "node2").replace("@sick@", str(sick)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    run = launch_toy(slurm, tmp_path, "step_sec=0.2", num_steps=300, gpus_per_node=2)
    first = run.folder.attempt(1)
    wait_for(lambda: run.outcome(1), 90.0, f"the end of attempt 1; {run.trouble()}")
    sick.unlink()
    stop = read_json(first.stop_json) or {}
    assert (stop["reason"], stop["exclude"]) == ("preflight", ["node2"])
    assert "node2: gpus: GPU 0 has 3 uncorrected memory errors" in stop["detail"]
    assert (run.outcome(1)["state"], run.outcome(1)["cause"]) == ("queued", "preflight")

    def goes_on() -> bool:
        return max(run.steps_of(0, 2), default=0) > 3

    wait_for(goes_on, 150.0, f"attempt 2 to step; {run.trouble()}")
    reports = [read_json(run.folder.attempt(2).preflight_json(n)) or {} for n in range(NUM_NODES)]
    assert [report["state"] for report in reports] == ["passed"] * NUM_NODES
