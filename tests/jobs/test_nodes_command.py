"""`python -m jobs nodes`: who was blamed."""

from __future__ import annotations

from pathlib import Path

from tests.jobs.commands import jobs, jobs_json
from tests.jobs.launched_runs import conclude, make_launched

NO_SLURM = {"PATH": "/nonexistent"}


def test_blamed_and_excluded_nodes_are_counted_over_all_runs(tmp_path: Path) -> None:
    first = make_launched(tmp_path, "pretrain/a", "failed", "1", attempts=3, excluded=["node2"])
    conclude(first, 1, "node_fail", blamed=["node2"], ended=1000.0)
    conclude(first, 2, "hang", blamed=["node2", "node3"], ended=2000.0)
    conclude(first, 3, "crash", ended=3000.0)
    make_launched(tmp_path, "pretrain/b", "running", "2", excluded=["node2", "node9"])
    nodes = jobs_json("nodes", "--runs", str(tmp_path), env=NO_SLURM)["nodes"]
    assert [node["name"] for node in nodes] == ["node2", "node3", "node9"]
    assert nodes[0]["causes"] == {"node_fail": 1, "hang": 1}
    assert (nodes[0]["blamed"], nodes[0]["last"]) == (2, 2000.0)
    assert nodes[0]["excluded_by"] == ["pretrain/b"]  # the failed run gets no nodes at all
    assert (nodes[2]["blamed"], nodes[2]["excluded_by"]) == (0, ["pretrain/b"])
    shown = jobs("nodes", "--runs", str(tmp_path), env=NO_SLURM)
    assert shown.returncode == 0
    assert "node_fail 1x, hang 1x" in shown.stdout
    assert "pretrain/a" in shown.stdout


def test_no_blame_is_said(tmp_path: Path) -> None:
    make_launched(tmp_path, "pretrain/a", "done", "1")
    shown = jobs("nodes", "--runs", str(tmp_path), env=NO_SLURM)
    assert (shown.returncode, "no node was blamed" in shown.stdout) == (0, True)
