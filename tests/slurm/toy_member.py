"""A run of one rank without torch that keeps the run-folder contract: members of arrays, stages.

Appends a line to `<run>/starts.jsonl` each time it starts, then steps until it is done or told to
stop, or fails as told.

    python -m toy_member steps=3 step_sec=0.1 number=7 fail=1 need=/runs/x/result.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

RUN = Path(os.environ["EGOVL_RUN_DIR"])
ATTEMPT = os.environ["EGOVL_ATTEMPT"]
STOP_FILE = Path(os.environ["EGOVL_STOP_FILE"])


def write(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(data))
    beside.replace(path)


def leave(state: str, step: int, **more: object) -> None:
    facts = {"state": state, "rank": 0, "world_size": 1, "step": step, "saved_step": step}
    write(RUN / "attempts" / ATTEMPT / "exit" / "0.json", facts | {"message": ""} | more)


def main() -> int:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    with (RUN / "starts.jsonl").open("a") as file:
        file.write(json.dumps({"attempt": ATTEMPT, "time": time.time()}) + "\n")
    marks = RUN.glob("ckpt/step-*/COMMIT")
    step = max((json.loads(mark.read_text())["step"] for mark in marks), default=0)
    if "need" in options and not Path(options["need"]).exists():
        leave("failed", step, message=f"{options['need']} is not there", retry=False)
        return 1
    if "fail" in options and not (RUN.parent.parent / "mended").exists():
        leave("failed", step, message="told to fail", retry=False)
        return 1
    while step < int(options.get("steps", 1)):
        time.sleep(float(options.get("step_sec", 0)))
        step += 1
        if told or STOP_FILE.exists():
            write(RUN / "ckpt" / f"step-{step}" / "COMMIT", {"step": step, "attempt": ATTEMPT})
            leave("stopped", step)
            return 0
    write(RUN / "result.json", {"schema": 1, "step": step, "metrics": {}})
    leave("done", step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
