"""Acceptance line narrator-4: a corpus narrated by an array whose every shard is broken off.

    python -m tests.slurm.soak_narrate --videos 100 --shards 10

An unbroken array and a broken one narrate the same clips with the same random narrator. Of the
broken one every second shard is preempted and of the others the rank is killed, each once some of
its records are written and before all are. Both lists have to be equal, record for record.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from jobs.run_folder import RunFolder, read_json
from tests.slurm import processes
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import Settings
from tests.slurm.journey import command, make_checkout
from tests.slurm.testbed import bring_up
from tests.slurm.waiting import wait_for

WORDS = (
    "init=null",
    "write.loader.eval_batch_size=4",
    "write.loader.num_workers=0",
    "write.batches_per_part=1",
    "write.job.generation.max_new_tokens=12",
)
ENDS = ("done", "failed", "cancelled", "stopped")
STOPPED_BY = ("preempt", "crash")
CLIPS_PER_VIDEO = 20


class Corpus:
    """One array: its members, which make their folders as they start, and what they write."""

    def __init__(self, project: Path, name: str, shards: int) -> None:
        self.out = project / "data" / name
        self.name, self.shards = name, shards
        self._project = project

    def launch(self, parallel: int) -> None:
        """Queue all members."""
        flags = ("--config", "configs/debug/narrate.yaml", "--name", self.name)
        flags += ("--shards", str(self.shards), "--parallel", str(parallel))
        words = ("--partition", "a100", f"write.out={self.out}", *WORDS)
        command(self._project, "launchers/narrate.py", *flags, *words)

    def runs(self) -> dict[int, RunFolder]:
        """Of the members that have started, by the number of their shard."""
        files = (self._project / "runs/narrate").glob(f"{self.name}-*/run.json")
        return {shard_of(path): RunFolder(path.parent) for path in files}

    def parts(self, shard: int) -> int:
        """How many parts of its records a shard has written."""
        folder = self.out / f"records/{shard:05d}-of-{self.shards:05d}"
        return len(list(folder.glob("0*.jsonl")))

    def wait_done(self) -> None:
        """Wait for the end of all, which has to be a good one."""

        def states() -> dict[int, str]:
            return {n: str(run.read_state().get("state")) for n, run in self.runs().items()}

        def ended() -> bool:
            found = states()
            return len(found) == self.shards and all(state in ENDS for state in found.values())

        wait_for(ended, 3600, lambda: f"all shards of {self.name}: {states()}", 0.5)
        assert set(states().values()) == {"done"}, states()

    def lines(self) -> list[str]:
        """The list that the last member has joined."""
        return (self.out / "total.jsonl").read_text().splitlines()

    def causes(self) -> dict[int, list[str]]:
        """Why the attempts of each member ended."""
        return {
            shard: [
                str((read_json(run.attempt(number).outcome_json) or {}).get("cause"))
                for number in run.attempt_numbers()
            ]
            for shard, run in self.runs().items()
        }


def shard_of(run_json: Path) -> int:
    """The number that stands among a member's arguments."""
    arguments = json.loads(run_json.read_text())["spec"]["arguments"]
    return next(int(w.partition("=")[2]) for w in arguments if w.startswith("write.shard="))


def break_off_all(slurm: SlurmClient, corpus: Corpus) -> None:
    """Preempt every second shard and kill the others' ranks, each in the midst of its records."""
    broken: set[int] = set()
    while len(broken) < corpus.shards:
        found = wait_for(lambda: _at_work(slurm, corpus, broken), 900, "a shard at work", 0.05)
        assert found is not None
        shard, run = found
        if shard % 2:
            pid = slurm.find_rank(run.path, 0)
            if pid is None:
                continue  # it has ended meanwhile
            outcome = run.attempt(run.latest_attempt()).outcome_json
            processes.send(pid, signal.SIGKILL)
            # the next preemption would be the cause that is written down
            wait_for(outcome.exists, 180, f"the end of shard {shard}'s attempt")
        else:
            _preempt_running(slurm)
        broken.add(shard)


def _at_work(slurm: SlurmClient, corpus: Corpus, broken: set[int]) -> tuple[int, RunFolder] | None:
    """A shard whose rank is at work, with some of its records written."""
    for shard, run in sorted(corpus.runs().items()):
        if shard in broken or corpus.parts(shard) < 2:
            continue
        state = run.read_state().get("state")
        assert state not in ENDS, f"shard {shard} was {state} before it could be broken off"
        if slurm.find_rank(run.path, 0) is not None:
            return shard, run
    return None


def _preempt_running(slurm: SlurmClient) -> None:
    """Take every node for a moment."""
    intruder = slurm.start_intruder()
    try:
        slurm.wait_state(intruder, "RUNNING", seconds=180)
    finally:
        slurm.cancel(intruder)


def compare(whole: Corpus, broken: Corpus, clips: int) -> list[str]:
    """What is not as it has to be; nothing, if all is."""
    lists = whole.lines(), broken.lines()
    wrong = [] if len(lists[1]) == clips else [f"{len(lists[1])} records of {clips} clips"]
    places = [tuple(json.loads(line)[k] for k in ("video_uid", "start_sec")) for line in lists[1]]
    if len(set(places)) != len(places):
        wrong.append(f"{len(places) - len(set(places))} clips stand twice")
    unequal = sum(a != b for a, b in zip(*lists, strict=False))
    if unequal:
        wrong.append(f"{unequal} records differ")
    missed = [n for n, causes in broken.causes().items() if STOPPED_BY[n % 2] not in causes]
    if missed:
        wrong.append(f"shards {missed} were not broken off: {broken.causes()}")
    return wrong


def soak(slurm: SlurmClient, project: Path, args: argparse.Namespace) -> list[str]:
    """Narrate twice, break one off, print the figures; what is wrong."""
    whole, broken = (Corpus(project, name, args.shards) for name in ("whole", "broken"))
    started = time.monotonic()
    whole.launch(args.parallel)
    whole.wait_done()
    unbroken_sec = time.monotonic() - started
    broken.launch(args.parallel)
    break_off_all(slurm, broken)
    broken.wait_done()
    clips = CLIPS_PER_VIDEO * args.videos
    wrong = compare(whole, broken, clips)
    causes = Counter(cause for each in broken.causes().values() for cause in each)
    attempts = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
    print(
        f"{clips} clips, {args.shards} shards, attempts ended by {attempts}: "
        f"{'; '.join(wrong) or 'equal record for record, none twice'}; unbroken "
        f"{unbroken_sec:.0f} s, broken {time.monotonic() - started - unbroken_sec:.0f} s"
    )
    return wrong


def main() -> int:
    """Corpus, testbed, both arrays."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=100, help="of 20 clips each")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--parallel", type=int, default=4, help="shards at a time")
    args = parser.parse_args()
    # its name tells the tests' clean-up which process it belongs to
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = None
    try:
        render_corpus(SyntheticConfig(train_videos=args.videos, eval_videos=5), folder / "corpus")
        local, _ = bring_up(Settings(folder / "slurm"))
        os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
        project = make_checkout(folder / "project", folder / "corpus", gpus=1, steps=1)
        return 1 if soak(SlurmClient(local), project, args) else 0
    finally:
        if local is not None:
            local.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
