from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from jobs.attempt import AttemptOnNode, Work
from jobs.environment import PREFLIGHT
from jobs.health import PreflightLimits
from jobs.node import NodeFacts
from jobs.preflight import Preflight, earlier_failures, judge
from jobs.preflight_ranks import LINKS, find_slow_nodes, join_reports, read_reports
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.signals import SignalPipe
from jobs.spec import JobSpec, Resources
from jobs.stop import read_stop

LIMITS = PreflightLimits(link_gb_per_sec=10)
FAST, SLOW = 40.0, 2.0


def rank_report(
    rank: int,
    node: int,
    failed: Mapping[str, str] | None = None,
    links: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a rank writes; `failed` is check -> message."""
    checks: list[dict[str, Any]] = [{"name": "inputs", "state": "passed", "message": ""}]
    checks += [{"name": k, "state": "failed", "message": v} for k, v in (failed or {}).items()]
    if links is not None:
        checks.append({"name": LINKS, "state": "failed", "message": "", "links": dict(links)})
    return {"rank": rank, "node": node, "name": f"n{node}", "seconds": 0.1, "checks": checks}


def judged(*reports: dict[str, Any], earlier: set[str] | None = None) -> tuple[Any, str]:
    """Excluded nodes and reason; (None, "") where all are fit."""
    stop = judge(join_reports(reports, LIMITS), LIMITS, earlier or set())
    return (None, "") if stop is None else (stop.exclude, stop.detail)


def test_fit_ranks_lead_to_nothing() -> None:
    assert judged(*(rank_report(rank, rank // 2) for rank in range(4))) == (None, "")


def test_a_wrong_product_excludes_its_node_and_is_said_once_per_node() -> None:
    wrong = {"gemm": "1 of 65536 numbers are wrong"}
    ranks = [rank_report(rank, rank // 2, wrong if rank > 1 else None) for rank in range(4)]
    excluded, detail = judged(*ranks)
    assert excluded == ("n1",)
    assert detail == "n1: gemm: 1 of 65536 numbers are wrong (rank 2)"


def test_what_is_wrong_on_all_nodes_is_the_job() -> None:
    missing = {"inputs": "not there: init.file"}
    excluded, detail = judged(*(rank_report(rank, rank, missing) for rank in range(2)))
    assert excluded == ()
    assert detail.startswith("every node is unfit for this job: n0: inputs: not there")
    alone = rank_report(0, 0, missing)
    assert judged(alone)[0] == ("n0",)
    assert judged(alone, earlier={"inputs"})[0] == ()


def test_the_node_of_which_all_links_are_slow_is_left_out() -> None:
    ring = [{"1": FAST, "3": FAST}, {"0": FAST, "2": SLOW}, {"1": SLOW, "3": SLOW}]
    ring.append({"2": SLOW, "0": FAST})
    excluded, detail = judged(*(rank_report(n, n, links=each) for n, each in enumerate(ring)))
    assert excluded == ("n2",)
    assert "n2: links: 2 GB/s with n1, 2 GB/s with n3; 10 asked for" in detail


def test_both_ends_of_a_single_slow_link_are_left_out_once() -> None:
    ends = [rank_report(0, 0, links={"1": SLOW}), rank_report(1, 1, links={"0": SLOW})]
    assert judged(*ends)[0] == ("n0", "n1")
    assert judged(*ends, earlier={LINKS})[0] == ()


def pair(a: int, b: int) -> frozenset[int]:
    return frozenset((a, b))


@pytest.mark.parametrize(
    ("links", "blamed"),
    [
        ({}, []),
        ({pair(0, 1): FAST, pair(1, 2): FAST, pair(2, 0): FAST}, []),
        ({pair(0, 1): FAST, pair(1, 2): 0.0, pair(2, 0): 0.0}, [2]),
        ({pair(0, 1): FAST, pair(1, 2): SLOW, pair(2, 3): FAST, pair(3, 0): FAST}, [1, 2]),
        ({pair(0, 1): SLOW, pair(1, 2): SLOW, pair(2, 0): SLOW}, [0, 1, 2]),
    ],
)
def test_slow_links_point_at_nodes(links: dict[frozenset[int], float], blamed: list[int]) -> None:
    assert find_slow_nodes(links, 10.0) == blamed


def test_wrong_sums_need_no_floor() -> None:
    assert find_slow_nodes({pair(0, 1): 0.0, pair(1, 2): SLOW, pair(2, 0): 0.0}, 0.0) == [0]


def make(folder: Path, limits: PreflightLimits = LIMITS, executor: str = "slurm") -> Preflight:
    run = RunFolder(folder / "run")
    run.claim_attempt(1, "t", 0)
    node = NodeFacts(name="n0", executor=executor, count=2)
    resources = Resources(nodes=2, processes_per_node=1, preflight=limits)
    return Preflight(run, run.attempt(1), node, resources)


def test_ranks_are_asked_by_their_environment_where_nodes_are_slurms(tmp_path: Path) -> None:
    asked = json.loads(make(tmp_path).request[PREFLIGHT])
    assert asked["report"].endswith("run/attempts/1/preflight/rank.{rank}.json")
    assert (asked["node"], asked["name"]) == (0, "n0")
    assert (asked["node_gb_per_sec"], asked["link_gb_per_sec"]) == (0.0, 10)
    assert make(tmp_path, executor="local").request == {}
    assert make(tmp_path, PreflightLimits(is_on=False)).request == {}


def test_reports_count_once_all_are_there(tmp_path: Path) -> None:
    preflight, run = make(tmp_path), RunFolder(tmp_path / "run")
    attempt = run.attempt(1)
    assert read_reports(attempt, 2) is None and not preflight.awaits_ranks
    write_json_atomic(attempt.rank_preflight_json(0), rank_report(0, 0))
    assert read_reports(attempt, 2) is None and preflight.awaits_ranks
    attempt.preflight_json(1).write_text("{}")  # an agent's is none of them
    assert read_reports(attempt, 2) is None
    write_json_atomic(attempt.rank_preflight_json(1), rank_report(1, 1, {"gemm": "wrong"}))
    assert len(read_reports(attempt, 2) or ()) == 2


def test_failures_of_ranks_count_in_the_next_attempt(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim_attempt(1, "t", 0)
    write_json_atomic(run.attempt(1).outcome_json, {"cause": "preflight"})
    report = rank_report(1, 1, {"gemm": "wrong"})
    write_json_atomic(run.attempt(1).rank_preflight_json(1), report)
    assert earlier_failures(run, 2) == {"gemm"}


def test_what_unfit_ranks_wrote_is_heard_after_they_have_left(tmp_path: Path) -> None:
    """A network disk shows the last file late; without it their stop would pass for a crash."""
    run = RunFolder(tmp_path / "run")
    run.claim_attempt(1, "t" * 32, 0)
    spec = JobSpec("pretrain", "x", resources=Resources(processes_per_node=2))
    write_json_atomic(run.spec_json("t" * 32), spec.to_json())
    work = Work(run, spec, tmp_path, str(tmp_path), "t" * 32)
    folder = run.attempt(1)
    write_json_atomic(folder.rank_preflight_json(0), rank_report(0, 0, {"gemm": "wrong"}))
    late = Timer(
        1.0,
        write_json_atomic,
        (folder.rank_preflight_json(1), rank_report(1, 0, {"gemm": "wrong"})),
    )
    with SignalPipe() as signals, subprocess.Popen(["/bin/true"]) as checks:
        attempt = AttemptOnNode(work, NodeFacts(name="n0", executor="slurm"), 1, signals)
        attempt._preflight._process = checks
        with attempt._local_stop:
            late.start()
            attempt._hear_unfit_ranks()
    late.join()
    stop = read_stop(folder.stop_json)
    assert stop is not None
    assert (stop.reason, stop.exclude) == ("preflight", ("n0",))
    assert stop.detail == "n0: gemm: wrong (rank 0)"
