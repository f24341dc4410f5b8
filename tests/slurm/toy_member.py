"""A run of one rank without torch that keeps the run-folder contract: members of arrays, stages.

Appends a line to `<run>/starts.jsonl` each time it starts, then steps until it is done or told to
stop. `fail` and `hang` say what it does until `<runs>/mended` exists.

    python -m toy_member steps=3 step_sec=0.1 number=7 fail=1 hang=1 need=/runs/x/result.json
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
MENDED = RUN.parent.parent / "mended"


def write(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(data))
    beside.replace(path)


def leave(state: str, step: int, message: str = "", **more: object) -> int:
    facts = {"rank": 0, "world_size": 1, "step": step, "saved_step": step, "message": message}
    path = RUN / "attempts" / ATTEMPT / "exit" / "0.json"
    write(path, facts | {"state": state} | more)
    return int(state == "failed")


def last_step() -> int:
    marks = RUN.glob("ckpt/step-*/COMMIT")
    return max((json.loads(mark.read_text())["step"] for mark in marks), default=0)


def main() -> int:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    with (RUN / "starts.jsonl").open("a") as file:
        file.write(json.dumps({"attempt": int(ATTEMPT), "time": time.time()}) + "\n")
    step = last_step()
    if "need" in options and not Path(options["need"]).exists():
        return leave("failed", step, f"{options['need']} is not there", retry=False)
    if "fail" in options and not MENDED.exists():
        return leave("failed", step, "told to fail", retry=False)
    while step < int(options.get("steps", 1)):
        time.sleep(float(options.get("step_sec", 0.01)))
        step += not ("hang" in options and not MENDED.exists())
        if told or STOP_FILE.exists():
            facts = {"step": step, "attempt": int(ATTEMPT), "world_size": 1, "files": {}}
            write(RUN / "ckpt" / f"step-{step}" / "COMMIT", facts)
            return leave("stopped", step)
    write(
        RUN / "result.json",
        {"schema": 1, "step": step, "metrics": {"steps": step}, "time": time.time()},
    )
    return leave("done", step)


if __name__ == "__main__":
    sys.exit(main())
