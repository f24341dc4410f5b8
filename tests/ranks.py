"""Run a function as the ranks of a real gloo process group, and hand back what each returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.multiprocessing as mp

from egovl import dist


def run_ranks(
    world_size: int, worker: Callable[..., Any], *args: Any, limit_sec: float = 120.0
) -> list[Any]:
    """Call ``worker(*args)`` in ``world_size`` processes; return their results by rank.

    A rank that raises fails the call with its traceback; no process outlives it. ``worker`` is a
    function of a module, its result tensors, numbers, strings and containers of them.
    """
    with TemporaryDirectory() as folder:
        context = mp.start_processes(
            _rank, (world_size, folder, worker, args), nprocs=world_size, join=False
        )
        assert context is not None
        try:
            end = time.monotonic() + limit_sec
            while not context.join(timeout=1.0):
                assert time.monotonic() < end, f"ranks still run after {limit_sec} s"
        finally:
            processes: list[Any] = context.processes
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world_size)]


def _rank(
    rank: int, world_size: int, folder: str, worker: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    facts = dist.RankFacts(rank=rank, local_rank=rank, world_size=world_size)
    dist.init_process_group(
        facts, timeout_sec=60, use_cuda=False, init_method=f"file://{folder}/rendezvous"
    )
    try:
        torch.save(worker(*args), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.shutdown()
