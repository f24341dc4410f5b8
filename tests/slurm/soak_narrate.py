"""Acceptance line narrator-4: a corpus narrated by an array whose every shard is broken off.

    python -m tests.slurm.soak_narrate --videos 100 --shards 10

An unbroken array and a broken one narrate the same clips with the same random narrator. Of the
broken one every shard is preempted, or its rank killed, once its first parts are written. Both
lists have to be equal, record for record.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from jobs.run_folder import RunFolder
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.journey import command, make_checkout
from tests.slurm.testbed import bring_up
from tests.slurm.waiting import wait_for

WORDS = (
    "init=null",
    "write.loader.eval_batch_size=8",
    "write.loader.num_workers=0",
    "write.batches_per_part=2",
    "write.job.generation.max_new_tokens=12",
)
ENDS = ("done", "failed", "cancelled", "stopped")


def launch(project: Path, name: str, shards: int) -> list[RunFolder]:
    """Start an array; its members' run folders, which they make as they start."""
    flags = ("--config", "configs/debug/narrate.yaml", "--name", name, "--shards", str(shards))
    out = f"write.out={project / name}"
    command(project, "launchers/narrate.py", *flags, "--partition", "a100", out, *WORDS)
    runs = project / "runs/narrate"
    wait_for(lambda: len(_members(runs, name)) == shards, 600, f"{shards} members of {name}")
    return [RunFolder(path) for path in _members(runs, name)]


def _members(runs: Path, name: str) -> list[Path]:
    return sorted(path.parent for path in runs.glob(f"{name}*/run.json"))


def shard_of(run: RunFolder) -> int:
    """The number that stands among the member's arguments."""
    arguments = json.loads((run.path / "run.json").read_text())["spec"]["arguments"]
    return next(int(w.partition("=")[2]) for w in arguments if w.startswith("write.shard="))


def break_off(slurm: SlurmClient, run: RunFolder, out: Path, shards: int) -> None:
    """Preempt a shard, or kill its rank, when two parts of it are written."""
    number = shard_of(run)
    parts = out / f"records/{number:05d}-of-{shards:05d}"
    wait_for(lambda: len(list(parts.glob("0*.jsonl"))) >= 2, 600, f"parts of shard {number}")
    job = int(str(run.read_state()["job_id"]).partition("_")[0])
    if number % 2:
        slurm.run("scancel", "--signal=KILL", str(run.read_state()["job_id"]))
    else:
        slurm.preempt(job)


def wait_done(runs: list[RunFolder]) -> None:
    """Wait for the end of all, which has to be a good one."""
    wait_for(lambda: all(run.read_state().get("state") in ENDS for run in runs), 3600, "all shards")
    states = {run.path.name: run.read_state()["state"] for run in runs}
    assert set(states.values()) == {"done"}, states


def compare(project: Path, clips: int) -> list[str]:
    """What differs between the lists of both arrays; nothing, if all is as it has to be."""
    lists = [
        (project / name / "total.jsonl").read_text().splitlines() for name in ("whole", "broken")
    ]
    wrong = [] if len(lists[1]) == clips else [f"{len(lists[1])} records of {clips} clips"]
    places = [tuple(json.loads(line)[k] for k in ("video_uid", "start_sec")) for line in lists[1]]
    if len(set(places)) != len(places):
        wrong.append(f"{len(places) - len(set(places))} clips stand twice")
    unequal = sum(a != b for a, b in zip(*lists, strict=False))
    return [*wrong, f"{unequal} records differ"] if unequal else wrong


def main() -> int:
    """Narrate twice, break one off, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=100, help="of 20 clips each")
    parser.add_argument("--shards", type=int, default=10)
    args = parser.parse_args()
    # its name tells the tests' clean-up which process it belongs to
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = None
    try:
        render_corpus(SyntheticConfig(train_videos=args.videos, eval_videos=5), folder / "corpus")
        local, _ = bring_up(Settings(folder / "slurm"))
        os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
        slurm = SlurmClient(local)
        project = make_checkout(folder / "project", folder / "corpus", gpus=2, steps=1)
        started = time.monotonic()
        wait_done(launch(project, "whole", args.shards))
        unbroken_sec = time.monotonic() - started
        runs = launch(project, "broken", args.shards)
        for run in runs:
            break_off(slurm, run, project / "broken", args.shards)
        wait_done(runs)
        attempts = sum(len(run.attempt_numbers()) for run in runs)
        wrong = compare(project, 20 * args.videos)
        print(
            f"{20 * args.videos} clips, {args.shards} shards, {attempts} attempts: "
            f"{'; '.join(wrong) or 'equal record for record, none twice'}; unbroken "
            f"{unbroken_sec:.0f} s, broken {time.monotonic() - started - unbroken_sec:.0f} s"
        )
        return 1 if wrong else 0
    finally:
        if local is not None:
            local.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
