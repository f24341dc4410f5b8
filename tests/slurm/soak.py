"""``make soak``: preempt real trainings at random steps on the real Slurm, many times.

2 nodes x 2 processes, under both process trackers; every run is compared bit for bit with an
unbroken one. Prints one table; about half an hour for 20 preemptions a tracker.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import TRACKERS, Settings
from tests.slurm.journey import Journey, differences, make_checkout
from tests.slurm.testbed import bring_up

PREEMPTIONS_PER_RUN = 5
STEPS = 250
FLAGS = ("--nodes", "2", "--partition", "a100")


def soak_tracker(tracker: str, folder: Path, corpus: Path, times: int, seed: int) -> list[str]:
    """One row of the table per run."""
    draw = random.Random(seed)
    local, _ = bring_up(Settings(folder / tracker, tracker=tracker))
    os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
    slurm = SlurmClient(local)
    rows: list[str] = []
    try:
        project = make_checkout(
            folder / f"project-{tracker}", corpus, gpus=2, steps=STEPS, save_every=7
        )
        unbroken = Journey.launch(slurm, project, *FLAGS, "--name", "unbroken")
        unbroken.wait_done(600)
        for number in range(-(-times // PREEMPTIONS_PER_RUN)):
            count = min(PREEMPTIONS_PER_RUN, times - number * PREEMPTIONS_PER_RUN)
            steps = sorted(draw.sample(range(3, STEPS - 60), count))
            started = time.monotonic()
            run = Journey.launch(slurm, project, *FLAGS, "--name", f"soak{number}")
            for step in steps:
                run.wait_step(step)
                run.preempt()
            run.wait_done(600)
            lost, unequal = run.repeated_steps(), differences(run, unbroken)
            attempts = len(run.folder.attempt_numbers())
            verdict = "bit-equal" if not unequal else "; ".join(unequal[:3])
            rows.append(
                f"{tracker:10} {steps!s:28} {attempts:8} {lost:10} {verdict:12} "
                f"{time.monotonic() - started:6.0f}"
            )
            print(rows[-1], flush=True)
    finally:
        local.down()
    return rows


def main() -> int:
    """Soak both trackers; fails where a step was lost or a bit differs."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="preemptions per tracker")
    parser.add_argument("--seed", type=int, default=0, help="of the random steps")
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=list(TRACKERS))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    rows: list[str] = []
    try:
        render_corpus(SyntheticConfig(train_videos=5, eval_videos=5), folder / "corpus")
        for tracker in args.trackers:
            rows += soak_tracker(tracker, folder, folder / "corpus", args.times, args.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\ntracker    preempted at                 attempts steps lost  verdict     seconds")
    print("\n".join(rows))
    good = [row for row in rows if "bit-equal" in row and int(row.split("]")[1].split()[1]) == 0]
    return 0 if len(good) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
