"""Acceptance line hiervl-2 on the real Slurm: SummaryMCQ against the mean of clips, three seeds.

    python -m tests.slurm.soak_hierarchical --seeds 0 1 2

For every seed the launchers train the towers on clips and narrations alone, measured with the mean
of clips, then the hierarchical model from these towers. The first seed's hierarchical run is
made once more and preempted until it was resumed both in a child's and in a parent's turn; it has
to equal the unbroken run bit for bit. Prints one table; non-zero exit on any miss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from egovl.data.alternation import Turns
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from egovl.recipe import load_recipe
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.journey import Journey, differences, make_checkout
from tests.slurm.testbed import bring_up

TOWERS, HIERARCHICAL = ("configs/debug/hierarchical_towers.yaml", "configs/debug/hierarchical.yaml")
GAIN, LOWEST, HIGHEST = 15.0, 25.0, 75.0
MOST_PREEMPTIONS = 20  # a parent's step is the longer one: most requests fall into it
RUN_SEC = 3600.0  # of a whole run; its first step waits until every long video's clips are encoded
FLAGS = ("--nodes", "1", "--partition", "a100")


def result(run: Journey) -> dict[str, Any]:
    """What a finished run found, but for its times."""
    found = json.loads(run.folder.result_json.read_text())
    return {name: found[name] for name in ("step", "metrics", "train_loss")}


def summary_mcq(run: Journey) -> float:
    """Percent of a finished run."""
    return result(run)["metrics"]["summary_mcq/summary_mcq"]


def launch(slurm: SlurmClient, project: Path, config: str, name: str, *words: str) -> Journey:
    """Start a recipe with the launcher."""
    return Journey.launch(
        slurm, project, *FLAGS, "--config", config, "--name", name, "trainer.log_every=1", *words
    )


def preempt_in_both_turns(run: Journey, turns: Turns, total: int, seed: int) -> list[int]:
    """Preempt a run until the step after a stop was a child's once and a parent's once."""
    draw, seen, stops = random.Random(seed), set[bool](), []
    stopped, most = 0, max(4, total // (2 * MOST_PREEMPTIONS))
    while len(seen) < 2 and len(stops) < MOST_PREEMPTIONS and stopped + most < total:
        run.wait_step(stopped + draw.randint(3, most), RUN_SEC)
        run.preempt()
        # the nodes are free and nobody has begun again: this is where it goes on
        stopped = run.folder.last_commit_step() or 0
        stops.append(stopped)
        seen.add(turns.is_parent(stopped))
        print(f"  preempted; goes on after step {stopped}", flush=True)
    assert len(seen) == 2, f"stopped after {stops}: never both in a child's and in a parent's turn"
    return stops


def soak_seed(slurm: SlurmClient, project: Path, seed: int, words: list[str]) -> tuple[str, bool]:
    """One row of the table, and whether it holds."""
    started = time.monotonic()
    towers = launch(slurm, project, TOWERS, f"towers{seed}", f"seed={seed}", *words)
    towers.wait_done(RUN_SEC)
    low = summary_mcq(towers)
    print(f"seed {seed}: towers {result(towers)}, {time.monotonic() - started:.0f} s", flush=True)
    words = [f"seed={seed}", f"init={{origin: egovl, file: {towers.folder.path}}}", *words]
    unbroken = launch(slurm, project, HIERARCHICAL, f"hierarchical{seed}", *words)
    unbroken.wait_done(RUN_SEC)
    high = summary_mcq(unbroken)
    print(f"seed {seed}: above {result(unbroken)}, {time.monotonic() - started:.0f} s", flush=True)
    good = high >= low + GAIN and LOWEST <= low <= HIGHEST
    verdict = ""
    if seed == 0:
        stops, unequal = soak_preempted(slurm, project, unbroken, words)
        good &= not unequal
        verdict = f"resumed after {stops}: {'; '.join(unequal[:3]) or 'bit-equal, 0 steps lost'}"
    seconds = time.monotonic() - started
    return f"{seed:4} {low:13.1f} {high:13.1f} {high - low:6.1f} {seconds:8.0f}  {verdict}", good


def soak_preempted(
    slurm: SlurmClient, project: Path, unbroken: Journey, words: list[str]
) -> tuple[list[int], list[str]]:
    """Make a run once more with preemptions: where they stopped it, and what then differs."""
    recipe = load_recipe(project / HIERARCHICAL, words)
    assert recipe.train is not None and recipe.train.parents is not None
    turns = Turns(recipe.train.parents.children_per_parent)
    broken = launch(slurm, project, HIERARCHICAL, "preempted", *words)
    stops = preempt_in_both_turns(broken, turns, recipe.trainer.steps or 0, recipe.seed)
    broken.wait_done(RUN_SEC)
    unequal = differences(broken, unbroken)
    if result(broken) != result(unbroken):
        unequal.append(f"results {result(broken)} and {result(unbroken)}")
    if lost := broken.repeated_steps():
        unequal.append(f"{lost} steps lost")
    return stops, unequal


def main() -> int:
    """Corpus, testbed, one row per seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--corpus", type=Path, help="a rendered corpus that is there already")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of both recipes")
    args = parser.parse_intermixed_args()
    rows, good = ["seed  mean of clips  hierarchical   gain  seconds  preempted"], True
    # its name tells the tests' clean-up which process it belongs to
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = None
    try:
        corpus = (args.corpus or folder / "corpus").resolve()
        if args.corpus is None:
            render_corpus(SyntheticConfig(), corpus, workers=os.cpu_count() or 1)
        local, _ = bring_up(Settings(folder / "slurm"))
        os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
        slurm = SlurmClient(local)
        project = make_checkout(folder / "project", corpus, gpus=1, steps=1)
        for seed in args.seeds:
            row, holds = soak_seed(slurm, project, seed, args.overrides)
            print(row, flush=True)
            rows.append(row)
            good &= holds
    finally:
        if local is not None:
            local.down()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(["", *rows]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
