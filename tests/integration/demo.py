"""``make demo``: the main job end to end on a bare machine, with the commands a user would type.

Renders a corpus of real mp4 files, pretrains a small dual encoder with two processes through
submitit's local executor, preempts it once in the middle, and prints the result table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/debug/demo.yaml"


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def run(*words: str) -> None:
    """Show a command, then run it; ends the demo when it fails."""
    say(f"\n$ python {shlex.join(words)}")
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def start(*words: str) -> subprocess.Popen[bytes]:
    """Show a command and leave it running."""
    say(f"\n$ python {shlex.join(words)}")
    return subprocess.Popen([sys.executable, *words], cwd=ROOT)


def last_step(run_dir: Path) -> int:
    """The last step in a run's metrics, 0 where there are none."""
    file = run_dir / "metrics.jsonl"
    steps = [0]
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            steps.append(int(json.loads(line)["step"]))
        except ValueError:
            continue  # a line that is being written
    return max(steps)


def fresh_name(name: str) -> str:
    """A name that no run has ended under: the same launch again is the same run."""
    names = (name, *(f"{name}-again{count}" for count in range(1, 1000)))
    runs = ROOT / "runs/pretrain"
    return next(each for each in names if not any(runs.glob(f"{each}-????????/result.json")))


def find_run(name: str, since: float) -> Path | None:
    """The run folder of a launch that began at ``since``."""
    found = [
        path.parent
        for path in (ROOT / "runs/pretrain").glob(f"{name}-????????/run.json")
        if (path.parent / "attempts").stat().st_mtime >= since - 1
    ]
    return found[0] if found else None


def preempt_at(launch: subprocess.Popen[bytes], name: str, step: int, since: float) -> Path:
    """Wait for a step, then do to the run what a preemption does; returns the run folder."""
    run_dir: Path | None = None
    while launch.poll() is None:
        run_dir = run_dir or find_run(name, since)
        if run_dir is not None and last_step(run_dir) >= step:
            say(f"\n--- step {last_step(run_dir)}: now a higher job takes the machine away ---")
            run("-m", "jobs", "preempt", str(run_dir.relative_to(ROOT)))
            return run_dir
        time.sleep(0.2)
    raise SystemExit(f"the run ended before step {step}, so it was not preempted")


def main() -> None:
    """Corpus, pretraining with a forced preemption, results."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--preempt-at", type=int, default=200, help="step (default: 200)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for the recipe")
    args = parser.parse_args()
    started = time.time()
    say("egovl demo: a rendered corpus, a small dual encoder, one preemption, one table")
    run("-m", "egovl", "prepare", "synthetic", "--out", "data/synthetic")
    name = fresh_name(f"demo-seed{args.seed}")
    since = time.time()
    flags = ("--config", RECIPE, "--executor", "local", "--name", name, "--follow")
    overrides = (f"seed={args.seed}", *args.overrides)
    launch = start("launchers/pretrain.py", *flags, *overrides)
    run_dir = preempt_at(launch, name, args.preempt_at, since)
    if launch.wait():
        raise SystemExit(launch.returncode)
    run("launchers/collect_results.py")
    attempts = sorted(int(p.name) for p in (run_dir / "attempts").iterdir())
    metrics = json.loads((run_dir / "result.json").read_text())["metrics"]
    say(f"\nattempts {attempts}, {time.time() - started:.0f} s in all")
    for key, value in metrics.items():
        say(f"{key}: {value:.1f} % (chance: 20 %)")
    say(f"curves: tensorboard --logdir {run_dir.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
