from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as collectives

from egovl import dist
from egovl.engine.fitness import PREFLIGHT_VARIABLE, Asked, check_gemm, check_rank, pair_rounds
from egovl.engine.signals import StopRequest
from egovl.recipe import load_recipe
from egovl.run import run
from tests.architecture.source import ROOT
from tests.ranks import run_ranks

CPU = torch.device("cpu")
UNREACHABLE = 1e6  # GB/s
SLOW_SEC = 0.2  # of an all-reduce: 0.02 GB/s
FLOOR = 0.03
MATMUL = torch.Tensor.__matmul__


def wrong_product(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """One number of the product is off, as by a broken unit; whole numbers are right."""
    product = MATMUL(self, other)
    if product.is_floating_point():
        product[3, 5] += 1
    return product


def slow_reduce(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **more: Any) -> Any:
        if args[0].numel() > 1000:  # the small agreements are quick
            time.sleep(SLOW_SEC)
        return reduce(*args, **more)

    return wrapped


def wrong_reduce(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        if tensor.numel() > 1000:
            tensor[7] += 1
        return reduce(tensor, *args, **more)

    return wrapped


def ranks_story(folder: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Everything that three ranks show, in one group, as starting processes takes seconds."""
    rank = dist.rank()
    story: dict[str, tuple[str, dict[str, Any]]] = {}

    def check(name: str, nodes: list[int], missing: tuple[str, ...] = (), **floors: float) -> None:
        path = f"{folder}/{name}/rank.{{rank}}.json"
        asked = Asked(path, nodes[rank], f"n{nodes[rank]}", **floors)
        words = check_rank(asked, CPU, missing)
        story[name] = words, json.loads(Path(path.format(rank=rank)).read_text())

    pairs, apart = [0, 0, 1], [0, 1, 2]
    check("fit", pairs)
    check("one node", [0, 0, 0], node_gb_per_sec=UNREACHABLE)
    check("slow node", pairs, node_gb_per_sec=UNREACHABLE)
    check("slow fabric", pairs, link_gb_per_sec=UNREACHABLE)
    check("no input", apart, ("data: /nowhere",) if rank == 1 else ())
    reduce = collectives.all_reduce
    if rank == 2:
        collectives.all_reduce = slow_reduce(reduce)
    check("slow link", apart, link_gb_per_sec=FLOOR)
    if rank == 2:
        collectives.all_reduce = wrong_reduce(reduce)
    check("wrong sums", apart)
    collectives.all_reduce = reduce
    if rank == 1:
        torch.Tensor.__matmul__ = wrong_product
    check("wrong product", apart)
    torch.Tensor.__matmul__ = MATMUL
    return story


def states(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in report["checks"]}


def links(report: dict[str, Any]) -> dict[str, float]:
    (found,) = [check["links"] for check in report["checks"] if check["name"] == "links"]
    return found


@pytest.mark.slow
def test_ranks_find_what_is_wrong_and_all_of_them_hear_of_it(tmp_path: Path) -> None:
    ranks = run_ranks(3, ranks_story, str(tmp_path), limit_sec=400.0)
    told = {name: [rank[name][0] for rank in ranks] for name in ranks[0]}
    found = {name: [rank[name][1] for rank in ranks] for name in ranks[0]}

    assert told["fit"] == ["", "", ""]
    passed = {"gemm": "passed", "inputs": "passed", "all_reduce": "passed"}
    assert [states(each) for each in found["fit"]] == [passed | {"node_all_reduce": "passed"}] * 3
    assert [each["name"] for each in found["fit"]] == ["n0", "n0", "n1"]
    for report in found["fit"]:
        assert all(check["seconds"] >= 0 for check in report["checks"])
        assert report["seconds"] < 10
        assert report["checks"][-1]["gb_per_sec"] > 0

    # within a node it is the node, and there is nothing else to measure
    assert [states(each)["node_all_reduce"] for each in found["one node"]] == ["failed"] * 3
    assert "all_reduce" not in states(found["one node"][0])
    assert "GB/s between the 3 ranks of the node, 1e+06 asked for" in told["one node"][0]
    assert told["slow node"][2] == "the node of another rank is not fit"
    assert states(found["slow node"][2])["all_reduce"] == "passed"

    # two nodes have one link; which end it is nobody can tell
    assert [states(each)["links"] for each in found["slow fabric"]] == ["failed"] * 3
    assert [list(links(each)) for each in found["slow fabric"]] == [["1"], ["1"], ["0"]]

    assert "inputs: not there: data: /nowhere; is the disk mounted?" in told["no input"][1]
    assert told["no input"][0] == told["no input"][2] != ""

    for name in ("slow link", "wrong sums"):
        one, two, three = (links(each) for each in found[name])
        assert (list(one), list(two), list(three)) == (["1", "2"], ["0", "2"], ["0", "1"])
        assert one["1"] > FLOOR > max(one["2"], two["2"], *three.values())
        assert [states(each)["all_reduce"] for each in found[name]] == ["warned"] * 3
        assert all(told[name])
    assert links(found["wrong sums"][2]) == {"0": 0.0, "1": 0.0}

    assert "1 of 65536 numbers of a torch.float32 product are wrong" in told["wrong product"][1]
    assert told["wrong product"][0] == "the node of another rank is not fit"
    # collectives on a sick device may hang: none but the agreement
    assert states(found["wrong product"][1]) == {"gemm": "failed", "inputs": "passed"}


def test_a_right_product_passes_and_a_device_that_fails_is_named() -> None:
    assert check_gemm(CPU).state == "passed"
    found = check_gemm(torch.device("meta"))
    assert found.state == "failed"


@pytest.mark.parametrize("count", range(2, 9))
def test_every_neighbour_is_measured_once_and_nobody_has_two_partners(count: int) -> None:
    nodes = list(range(10, 10 + count))
    rounds = pair_rounds(nodes)
    for pairs in rounds:
        ends = [node for pair in pairs for node in pair]
        assert len(ends) == len(set(ends)) > 0
    measured = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(measured) == len(set(measured)) == (1 if count == 2 else count)
    assert set().union(*measured) == set(nodes)


def test_a_rank_that_is_not_fit_leaves_in_order_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"train.dataset.video_root={tmp_path}/nowhere"
    recipe = load_recipe(ROOT / "configs" / "debug" / "smoke.yaml", [nowhere])
    run_dir, report = tmp_path / "run", tmp_path / "preflight" / "rank.{rank}.json"
    asked = {"report": str(report), "node": 0, "name": "n0"}
    monkeypatch.setenv("EGOVL_ATTEMPT", "4")
    monkeypatch.setenv(PREFLIGHT_VARIABLE, json.dumps(asked))
    assert run(recipe, run_dir, StopRequest(), "train") == 0
    left = json.loads((run_dir / "attempts" / "4" / "exit" / "0.json").read_text())
    assert (left["state"], left["step"], left["saved_step"]) == ("stopped", None, None)
    assert "nowhere" in left["message"]
    assert not (run_dir / "config.yaml").exists() and not (run_dir / "metrics.jsonl").exists()
    found = json.loads(Path(str(report).format(rank=0)).read_text())
    assert states(found) == {"gemm": "passed", "inputs": "failed"}
