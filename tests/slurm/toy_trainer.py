"""A gloo trainer that keeps the run-folder contract and trains nothing: tests of the job side.

Every rank logs each step it has finished in `<run>/steps/<rank>.jsonl`, with a value that depends
on all steps before it in their order: a lost, repeated or reordered step shows in the last one.

    torchrun --nproc-per-node 2 -m toy_trainer steps=40 save_every=10 crash_at=17 ignore_stop=1
    torchrun --nproc-per-node 2 -m toy_trainer steps=40 hang_at=17 hang_rank=2 hang_attempts=1

With light=1 the ranks meet through files instead of gloo, and torch is not imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

MODULUS = 2**31 - 1
VERSION = "as submitted"
TOLD: list[int] = []

RUN = Path(os.environ["EGOVL_RUN_DIR"])
ATTEMPT = int(os.environ["EGOVL_ATTEMPT"])
STOP_FILE = Path(os.environ["EGOVL_STOP_FILE"])
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def next_value(value: int, step: int, world: int) -> int:
    """The value after a step: `world` ranks contribute (rank + 1) * step each."""
    return (value * 31 + step * world * (world + 1) // 2) % MODULUS


def is_fenced() -> bool:
    return (RUN / "attempts" / str(ATTEMPT + 1) / "claim.json").exists()


def write(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{RANK}")
    beside.write_text(json.dumps(data))
    beside.replace(path)


def append(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(data) + "\n")


def beat(phase: str, count: int) -> None:
    if path := os.environ.get("EGOVL_HEARTBEAT_FILE"):
        Path(path).write_text(f"{phase} {count}\n")


def sleep_for_ever() -> None:
    while True:
        time.sleep(1000)


def hangs(options: dict[str, float], step: int) -> bool:
    here = options.get("hang_rank") == RANK and options.get("hang_attempts", 1) >= ATTEMPT
    return here and step == options.get("hang_at")


def load() -> tuple[int, int]:
    """Step and value of the newest checkpoint that has its COMMIT."""
    marks = RUN.glob("ckpt/step-*/COMMIT")
    step = max((int(mark.parent.name.removeprefix("step-")) for mark in marks), default=0)
    if not step:
        return 0, 0
    shard = RUN / "ckpt" / f"step-{step}" / f"rank-{RANK}.json"
    return step, json.loads(shard.read_text())["value"]


class Gloo:
    """The ranks meet as a real trainer's do."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._dist = torch, dist
        dist.init_process_group("gloo")

    def barrier(self) -> None:
        self._dist.barrier()

    def sum(self, *values: int) -> list[int]:
        shared = self._torch.tensor(values)
        self._dist.all_reduce(shared)
        return [int(value) for value in shared]


class Files:
    """The ranks meet through files; a rank whose peer died waits for ever, as on GPUs."""

    def __init__(self) -> None:
        self._folder = RUN / "attempts" / str(ATTEMPT) / "meetings"
        self._count = 0

    def barrier(self) -> None:
        self.sum(0)

    def sum(self, *values: int) -> list[int]:
        self._count += 1
        folder = self._folder / str(self._count)
        write(folder / f"{RANK}.json", {"values": values})
        paths = [folder / f"{rank}.json" for rank in range(WORLD)]
        while not all(path.exists() for path in paths):
            time.sleep(0.002)
        columns = zip(*(json.loads(path.read_text())["values"] for path in paths), strict=True)
        return [sum(column) for column in columns]


def train(options: dict[str, float]) -> tuple[str, int, int]:
    """Step until the end or the stop; how it ended, the last step and the last COMMIT."""
    group = Files() if options.get("light") else Gloo()

    def save(step: int, value: int) -> None:
        beat("save", step)
        folder = RUN / "ckpt" / f"step-{step}"
        if not is_fenced():
            write(folder / f"rank-{RANK}.json", {"value": value})
        time.sleep(options.get("save_sec", 0.0))
        group.barrier()
        if RANK == 0 and not is_fenced():
            facts = {"step": step, "samples": step, "attempt": ATTEMPT, "world_size": WORLD}
            write(folder / "COMMIT", {**facts, "files": {}})
        group.barrier()

    step, value = load()
    saved = step
    print(f"rank {RANK} of {WORLD}, {VERSION}, begins at step {step}", flush=True)
    while step < options["steps"]:
        beat("step", step)
        time.sleep(options.get("step_sec", 0.05))
        step += 1
        if hangs(options, step):
            sleep_for_ever()
        if ATTEMPT == 1 and step == options.get("crash_at") and RANK == WORLD - 1:
            raise RuntimeError(f"told to crash at step {step}")
        sees_stop = bool(TOLD) or STOP_FILE.exists()
        total, stops_seen = group.sum((RANK + 1) * step, int(sees_stop))
        value = (value * 31 + total) % MODULUS
        if not is_fenced():
            line = {"step": step, "attempt": ATTEMPT, "time": time.time(), "value": value}
            append(RUN / "steps" / f"{RANK}.jsonl", line)
            if RANK == 0:
                append(RUN / "metrics.jsonl", {"kind": "train", "loss": 1.0 / step, **line})
        stops = bool(stops_seen) and not options.get("ignore_stop")
        if stops or step == options["steps"] or step % options.get("save_every", 1e9) == 0:
            save(step, value)
            saved = step
        if stops and step < options["steps"]:
            return "stopped", step, saved
    if RANK == 0 and not is_fenced():
        write(RUN / "result.json", {"schema": 1, "step": step, "value": value, "version": VERSION})
    return "done", step, saved


def main() -> None:
    # Before torch: on some clusters the ranks get the TERM of a preemption themselves.
    signal.signal(signal.SIGTERM, lambda *_: TOLD.append(1))
    options = {name: float(text) for name, text in (word.split("=") for word in sys.argv[1:])}
    exit_json = RUN / "attempts" / str(ATTEMPT) / "exit" / f"{RANK}.json"
    facts = {"rank": RANK, "world_size": WORLD}
    beat("start", 0)
    try:
        state, step, saved = train(options)
    except RuntimeError as error:  # our own, or gloo's once a peer is gone
        failed = {"state": "failed", "step": None, "saved_step": None, "message": str(error)}
        write(exit_json, {**facts, **failed})
        raise
    message = "" if state == "done" else "told to stop"
    left = {"state": state, "step": step, "saved_step": saved, "message": message}
    write(exit_json, {**facts, **left})


if __name__ == "__main__":
    main()
