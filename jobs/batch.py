"""The batch job of a submission: what goes into its script, and the one way it gets to Slurm.

The launcher submits the first job of a run and a user's relaunch; `jobs.successor` submits the
next one from inside the job before it, with the parameters that the first has left.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.job_log import mark_line
from jobs.ledger import comment_tag, record_job
from jobs.run_folder import RunFolder
from jobs.submitter import submit_script

if TYPE_CHECKING:
    from jobs.agent import NodeAgent


class Submitted(Protocol):
    """What a batch script needs to know of the callable that it starts."""

    snapshot: str
    token: str

    def __call__(self) -> object:
        """Run on one node."""
        ...

    def last_words(self) -> list[str]:
        """Return Python's arguments for the batch shell after srun; the step's status follows."""
        ...


def batch_parameters(parameters: Mapping[str, Any], agent: Submitted) -> dict[str, Any]:
    """Return submitit's parameters for one submission.

    Args:
        parameters: of the run's jobs, by `jobs.cluster.slurm_parameters`.
        agent: what the job starts on every node.
    """
    snapshot = shlex.quote(agent.snapshot)
    python = shlex.quote(sys.executable)
    finish = shlex.join(agent.last_words())
    setup: list[str] = [
        *(parameters.get("setup") or []),
        f'echo "{mark_line()}"',
        "trap : TERM CONT  # a requeue signals this shell too; it still has a last word",
        f"cd {snapshot}",
        f"export PYTHONPATH={snapshot}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    teardown = ["step_status=$?", "trap '' TERM USR2", f'{python} {finish} "$step_status"']
    comment = comment_tag(agent.token)
    return {**parameters, "setup": setup, "teardown": teardown, "comment": comment}


def submit_batch(run: RunFolder, parameters: Mapping[str, Any], agent: NodeAgent) -> str:
    """Hand a run's job to Slurm and write down its id.

    Returns:
        The job's id.

    Raises:
        SubmitError: with Slurm's words if it refuses.
    """
    job_id = submit_script(run.submission, batch_parameters(parameters, agent), agent)
    record_job(run, agent.token, job_id, "slurm")
    return job_id


def script_text(folder: Path, parameters: Mapping[str, Any]) -> str:
    """Return a batch script as submitit writes it; needs no Slurm, unlike its executor."""
    from submitit.slurm.slurm import _make_sbatch_string  # pyright: ignore[reportPrivateUsage]

    submit = ["-u", "-m", "submitit.core._submit", str(folder)]
    return _make_sbatch_string(
        command=shlex.join([sys.executable, *submit]), folder=folder, **parameters
    )
