"""Start a run on this machine through submitit's local executor: `python -m jobs.local_start ...`.

A process of its own, in a session of its own: closing the terminal or Ctrl-C in the launcher does
not reach the run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jobs.agent import NodeAgent
from jobs.ledger import record_job
from jobs.run_folder import RunFolder

# The agent holds the run to its time limit itself; submitit's controller must not end it.
_NO_LIMIT_MIN = 10 * 365 * 24 * 60


def start(run_dir: str, snapshot: str, token: str, num_gpus: int, slot: int = 0) -> str:
    """Start the agent under submitit's controller and return the controller's process id.

    Args:
        run_dir: the run folder.
        snapshot: the code.
        token: of the submission.
        num_gpus: that the run takes.
        slot: which of several runs side by side this is; each has GPUs of its own.
    """
    import submitit  # heavy, and only where something is submitted

    run = RunFolder(Path(run_dir))
    listed = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), (slot + 1) * num_gpus)
    executor = submitit.LocalExecutor(run.submission)
    executor.update_parameters(
        timeout_min=_NO_LIMIT_MIN,
        gpus_per_node=num_gpus,
        visible_gpus=listed[slot * num_gpus :],
        stderr_to_stdout=True,
    )
    job = executor.submit(NodeAgent(run_dir, snapshot, token))
    record_job(run, token, job.job_id, "local")
    return job.job_id


def visible_gpus(listed: str | None, num_gpus: int) -> tuple[int, ...]:
    """Return the GPUs to use: the first of those that the user left visible."""
    numbers = [part.strip() for part in (listed or "").split(",") if part.strip()]
    if numbers and all(number.isdecimal() for number in numbers):
        return tuple(int(number) for number in numbers[:num_gpus])
    return tuple(range(num_gpus))


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
