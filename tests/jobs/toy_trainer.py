"""A trainer without torch that keeps the run-folder contract: ranks step together through files.

A rank that dies leaves the others waiting for ever, as a collective on GPUs does.

    python -m tests.jobs.toy_trainer train steps=20 step_sec=0.05 save_every=5 fail_at=7
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

RUN = Path(os.environ.get("EGOVL_RUN_DIR", "."))
ATTEMPT = int(os.environ.get("EGOVL_ATTEMPT", "1"))
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
DEFAULTS = {
    "steps": 10.0,
    "step_sec": 0.05,
    "save_every": 5.0,
    "save_sec": 0.0,
    "fail_at": -1.0,
    "fail_attempt": 1.0,  # 0: every attempt
    "die_at": -1.0,
    "start_sec": 0.0,
    "retry": 1.0,
}


def write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(data))
    beside.replace(path)


def fenced() -> bool:
    return (RUN / "attempts" / str(ATTEMPT + 1) / "claim.json").exists()


def last_step() -> int:
    marks = RUN.glob("ckpt/step-*/COMMIT")
    return max((json.loads(mark.read_text())["step"] for mark in marks), default=0)


def meet(step: int, flag: bool) -> bool:
    """All ranks' flags of this step, OR-ed; waits for all of them."""
    folder = RUN / "attempts" / str(ATTEMPT) / "toy" / str(step)
    write(folder / f"{RANK}.json", {"flag": flag})
    while True:
        words = [folder / f"{rank}.json" for rank in range(WORLD)]
        if all(word.exists() for word in words):
            return any(json.loads(word.read_text())["flag"] for word in words)
        time.sleep(0.005)


def save(step: int, save_sec: float) -> None:
    meet(1_000_000 + step, False)
    if RANK == 0 and not fenced():
        time.sleep(save_sec)
        commit = {"step": step, "attempt": ATTEMPT, "world_size": WORLD, "files": {}}
        write(RUN / "ckpt" / f"step-{step}" / "COMMIT", commit)
    meet(2_000_000 + step, False)


def leave(state: str, step: int, saved: int | None, message: str = "", **more: object) -> None:
    facts = {"state": state, "rank": RANK, "world_size": WORLD, "step": step}
    path = RUN / "attempts" / str(ATTEMPT) / "exit" / f"{RANK}.json"
    write(path, {**facts, "saved_step": saved, "message": message, **more})


def misbehave(options: dict[str, float], step: int) -> None:
    here = options["fail_attempt"] in (0, ATTEMPT)
    if here and step == options["fail_at"] and RANK == WORLD - 1:
        more = {} if options["retry"] else {"retry": False}
        leave("failed", step, None, f"told to fail at step {step}", **more)
        sys.exit(1)
    if here and step == options["die_at"] and RANK == WORLD - 1:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    pairs = (word.split("=") for word in sys.argv[2:])
    options = DEFAULTS | {name: float(value) for name, value in pairs}
    stop_file = Path(os.environ["EGOVL_STOP_FILE"])
    time.sleep(options["start_sec"])
    step = saved = last_step()
    print(f"rank {RANK} of {WORLD} begins at step {step}", flush=True)
    while step < options["steps"]:
        step += 1
        misbehave(options, step)
        time.sleep(options["step_sec"])
        if RANK == 0 and not fenced():
            with (RUN / "metrics.jsonl").open("a") as file:
                line = {"kind": "train", "step": step, "attempt": ATTEMPT, "loss": 1 / step}
                left = (options["steps"] - step) * options["step_sec"]
                line |= {"steps": int(options["steps"]), "sec_left": left, "time": time.time()}
                file.write(json.dumps(line) + "\n")
        stop = meet(step, bool(told) or stop_file.exists())
        if stop or step % options["save_every"] == 0 or step == options["steps"]:
            save(step, options["save_sec"])
            saved = step
        if stop and step < options["steps"]:
            leave("stopped", step, saved)
            return
    if RANK == 0 and not fenced():
        write(RUN / "result.json", {"schema": 1, "step": step, "metrics": {}})
    leave("done", step, saved)


if __name__ == "__main__":
    main()
