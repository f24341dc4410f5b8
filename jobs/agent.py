"""The node agent: what submitit starts, once per node, and what then starts torchrun.

Slurm's signals reach this process and, under `proctrack/cgroup`, no other. It turns them into a
stop file that the ranks look at, waits until they have saved, and on node 0 queues the next
attempt. Only strings are pickled; the truth is in the run folder.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.node import read_node_facts
from jobs.run_folder import RunFolder
from jobs.signals import SignalPipe

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


class NodeAgent:
    """The submitted callable.

    Attributes:
        run_dir: the run folder.
        snapshot: the code copy that the ranks run in.
        token: of this submission; with Slurm's restart count it names who holds an attempt.
    """

    def __init__(self, run_dir: str, snapshot: str, token: str) -> None:
        self.run_dir = run_dir
        self.snapshot = snapshot
        self.token = token

    def __call__(self) -> str:
        """Run this node's part of the run and return the state that it was left in."""
        logging.basicConfig(
            level=logging.INFO,
            stream=sys.stdout,
            format="%(asctime)s %(name)s: %(message)s",
            datefmt="%H:%M:%S",
        )
        run = RunFolder(Path(self.run_dir))
        node = read_node_facts(os.environ)
        # from the first moment: submitit's own handlers would requeue on USR2
        with SignalPipe() as signals:
            from jobs.execution import execute  # a launch, which pickles this class, need not wait

            return execute(run, Path(self.snapshot), self.token, node, signals)

    def last_words(self) -> list[str]:
        """Return Python's arguments for what the batch shell runs after srun."""
        return ["-m", "jobs.after_step", self.run_dir, self.token]

    def checkpoint(self) -> DelayedSubmission:
        """Continue after a stop signal that came before this agent listened.

        submitit calls it in its own signal handler, on the first node only, and requeues.
        """
        from submitit.helpers import DelayedSubmission  # present where submitit called

        run = RunFolder(Path(self.run_dir))
        node = read_node_facts(os.environ)
        held = run.find_claim(self.token, node.restart) or run.latest_attempt()
        run.claim_attempt(held + 1, self.token, node.restart + 1, by="submitit")
        return DelayedSubmission(NodeAgent(self.run_dir, self.snapshot, self.token))

    # submitit 1.5.4 looks for `checkpoint` and prefers this one once it has found that;
    # its documentation names only this one
    __submitit_checkpoint__ = checkpoint
