"""Is this rank's node fit to train? Asked once, as soon as the process group stands.

A matrix product with a known answer on this rank's device, the recipe's inputs, an all-reduce among
the ranks of the node and one among all. Where that one misses the bandwidth asked for, or sums
wrongly, pairs of nodes are measured: that shows which link it is.

The node's agent asks for it (``EGOVL_PREFLIGHT``, json) and names the file that every rank writes
its findings to, with seconds; a run started by hand checks nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as collectives

from egovl import dist
from egovl.engine.folder import write_json

PREFLIGHT_VARIABLE = "EGOVL_PREFLIGHT"

_SIZE = 256
_TILES = 16  # on a GPU, so that every multiprocessor has its part
_BYTES = {"cpu": 1 << 22, "cuda": 1 << 26}  # of an all-reduce
_REPEATS = 3


@dataclass(frozen=True)
class Asked:
    """What the agent wants to know.

    Attributes:
        report: path of a rank's findings, with ``{rank}`` in it.
        node: number of the node.
        name: what the scheduler calls it.
        node_gb_per_sec: least bandwidth within the node; 0: any will do.
        link_gb_per_sec: least bandwidth between nodes; 0: any will do.
    """

    report: str
    node: int
    name: str
    node_gb_per_sec: float = 0.0
    link_gb_per_sec: float = 0.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Asked | None:
        """Read what the agent has left in the environment; None without an agent."""
        text = (os.environ if environ is None else environ).get(PREFLIGHT_VARIABLE)
        return cls(**json.loads(text)) if text else None


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        state: passed, warned or failed.
        value: what was measured.
        message: what is wrong, and what to do.
        facts: numbers for who compares nodes.
    """

    state: str
    value: str = ""
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


def check_rank(asked: Asked, device: torch.device, missing: Sequence[str] = ()) -> str:
    """Check this rank together with all others and write down what was found.

    Args:
        asked: by the agent.
        device: where this rank computes.
        missing: inputs of the recipe that are not on this node.

    Returns:
        What is wrong, on every rank if it is on one; empty if all are fit.
    """
    started = time.monotonic()
    found = {
        "gemm": _timed(lambda: check_gemm(device)),
        "inputs": _timed(lambda: _check_inputs(missing)),
    }
    if not _is_anywhere(_words(found)) and dist.world_size() > 1:
        found |= _check_network(asked, device)
    words = _words(found)
    report = {
        "rank": dist.rank(),
        "node": asked.node,
        "name": asked.name,
        "seconds": round(time.monotonic() - started, 4),
        "checks": [{"name": name, **result} for name, result in found.items()],
    }
    write_json(Path(asked.report.format(rank=dist.rank())), report)
    is_anywhere = _is_anywhere(words)  # asked by all, also by those who know
    return words or ("the node of another rank is not fit" if is_anywhere else "")


def check_gemm(device: torch.device) -> Finding:
    """Multiply whole numbers, whose product every precision holds exactly."""
    source = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-1, 2, (_SIZE, _SIZE), generator=source) for _ in range(2))
    wanted = a @ b  # of integers: by none of the routines that are tested
    tiles = _TILES if device.type == "cuda" else 1
    dtypes = (torch.float32, torch.float16) if device.type == "cuda" else (torch.float32,)
    try:
        for dtype in dtypes:
            left = a.to(device, dtype).repeat(tiles, 1)
            right = b.to(device, dtype).repeat(1, tiles)
            product = (left @ right).view(tiles, _SIZE, tiles, _SIZE)
            answer = wanted.to(device, dtype).view(1, _SIZE, 1, _SIZE)
            wrong = int((product != answer).sum())
            if wrong:
                return Finding(
                    "failed",
                    f"{wrong} of {product.numel()}",
                    f"{wrong} of {product.numel()} numbers of a {dtype} product are wrong on "
                    f"{_describe(device)}: have its memory and the device tested",
                )
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0]
        return Finding("failed", "", f"no product on {_describe(device)}: {words}")
    return Finding("passed", f"{len(dtypes)} products on {_describe(device)}")


def pair_rounds(nodes: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Neighbours in a ring of nodes, in rounds in which a node has one partner at most."""
    count = len(nodes)
    if count == 2:
        return [[(nodes[0], nodes[1])]]
    edges = [(nodes[place], nodes[(place + 1) % count]) for place in range(count)]
    rounds = [edges[0 : count - count % 2 : 2], edges[1::2]]
    return rounds + ([edges[-1:]] if count % 2 else [])


def _check_inputs(missing: Sequence[str]) -> Finding:
    if not missing:
        return Finding("passed")
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return Finding("failed", str(len(missing)), f"not there: {shown}; is the disk mounted?")


def _check_network(asked: Asked, device: torch.device) -> dict[str, dict[str, Any]]:
    nodes: list[int] = dist.gather_json(asked.node)
    parts = [_ranks_of(nodes, {number}) for number in sorted(set(nodes))]
    found: dict[str, dict[str, Any]] = {}
    speed = 0.0

    def reduce_within() -> Finding:
        return _judge_node(*_speed_within(parts, device), asked.node_gb_per_sec)

    def reduce_all() -> Finding:
        nonlocal speed
        speed = _speed(len(nodes), device)
        return Finding("passed", _rate(speed), facts={"gb_per_sec": round(speed, 3)})

    if any(len(part) > 1 for part in parts):
        found["node_all_reduce"] = _timed(reduce_within)
    if len(parts) == 1:
        return found

    found["all_reduce"] = _timed(reduce_all)
    if not _is_anywhere(_is_slow(speed, asked.link_gb_per_sec)):
        return found
    links: dict[int, float] = {}
    found["links"] = _timed(lambda: _measure_links(nodes, asked, device, speed, links))
    is_located = _is_anywhere(_words(found))
    found["all_reduce"] |= {
        "state": "warned" if is_located else "failed",
        "message": f"{_rate(speed)} among all ranks, {asked.link_gb_per_sec:g} asked for"
        + ("" if is_located else ", and no pair of nodes is slow by itself: look at the fabric"),
    }
    return found


def _judge_node(speed: float, count: int, floor: float) -> Finding:
    facts = {"gb_per_sec": round(speed, 3)}
    if count == 1:
        return Finding("passed", "one rank")
    if not _is_slow(speed, floor):
        return Finding("passed", f"{_rate(speed)} between {count}", facts=facts)
    words = f"{_rate(speed)} between the {count} ranks of the node, {floor:g} asked for"
    return Finding("failed", _rate(speed), f"{words}: look at nvidia-smi topo -m and nvlink", facts)


def _measure_links(
    nodes: Sequence[int],
    asked: Asked,
    device: torch.device,
    speed: float,
    links: dict[int, float],
) -> Finding:
    """Measure this node with its neighbours; with two nodes all have measured that already."""
    numbers = sorted(set(nodes))
    for pairs in pair_rounds(numbers):
        if len(numbers) > 2:
            parts = [_ranks_of(nodes, set(pair)) for pair in pairs]
            speed, _ = _speed_within(parts, device)
        for pair in (each for each in pairs if asked.node in each):
            links[pair[0] + pair[1] - asked.node] = speed
    facts = {"links": {str(node): round(each, 3) for node, each in links.items()}}
    value = ", ".join(f"node {node}: {_rate(each)}" for node, each in links.items())
    if any(_is_slow(each, asked.link_gb_per_sec) for each in links.values()):
        words = f"{value}; {asked.link_gb_per_sec:g} GB/s asked for"
        return Finding("failed", value, f"{words}: look at its network card and cable", facts)
    return Finding("passed", value, facts=facts)


def _ranks_of(nodes: Sequence[int], wanted: set[int]) -> list[int]:
    return [rank for rank, node in enumerate(nodes) if node in wanted]


def _speed_within(parts: list[list[int]], device: torch.device) -> tuple[float, int]:
    """Bandwidth in the part that this rank is in, all at the same time, and that part's size."""
    if len(parts[0]) == dist.world_size():
        return _speed(dist.world_size(), device), dist.world_size()
    backend = "nccl" if device.type == "cuda" else "gloo"
    # made by all ranks, of whatever part: their names count on
    mine, _ = collectives.new_subgroups_by_enumeration(parts, backend=backend)
    if not isinstance(mine, collectives.ProcessGroup):  # of no part
        return 0.0, 0
    size = collectives.get_world_size(mine)
    speed = _speed(size, device, mine) if size > 1 else 0.0
    collectives.destroy_process_group(mine)
    return speed, size


def _speed(
    count: int, device: torch.device, group: collectives.ProcessGroup | None = None
) -> float:
    """Bus bandwidth of an all-reduce of `count` ranks in GB/s, the best of some; 0: wrong sum."""
    seconds: list[float] = []
    buffer = torch.empty(_BYTES[device.type] // 4, device=device)
    for _ in range(1 + _REPEATS):  # the first one connects
        buffer.fill_(1.0)
        start = _now(device)
        collectives.all_reduce(buffer, group=group)
        seconds.append(_now(device) - start)
    if not bool((buffer == count).all()):
        return 0.0
    return 2 * (count - 1) / count * _BYTES[device.type] / min(seconds[1:]) / 1e9


def _is_slow(speed: float, floor: float) -> bool:
    return speed < floor or speed == 0.0


def _rate(speed: float) -> str:
    return f"{speed:.3g} GB/s" if speed else "wrong sums"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _timed(check: Callable[[], Finding]) -> dict[str, Any]:
    start = time.monotonic()
    found = check()
    seconds = round(time.monotonic() - start, 4)
    words = {"state": found.state, "value": found.value, "message": found.message}
    return {**words, "seconds": seconds, **found.facts}


def _words(found: Mapping[str, Mapping[str, Any]]) -> str:
    failed = [f"{k}: {each['message']}" for k, each in found.items() if each["state"] == "failed"]
    return "; ".join(failed)


def _is_anywhere(what: object) -> bool:
    return bool(dist.all_agree_max(int(bool(what))))


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return "the CPU"
    return f"GPU {device.index} ({torch.cuda.get_device_name(device)})"
