"""The batch shell's last word: `python -m jobs.after_step RUN TOKEN STATUS`, after srun has ended.

In the normal case node 0's agent has concluded and there is nothing to do. If it could not (it was
killed, or died with its node's ranks), this concludes the attempt in its place and requeues.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from jobs.agent import read_spec
from jobs.attempt import conclude
from jobs.continuation import CONTINUED, Decision, continue_run, decide
from jobs.errors import JobsError
from jobs.node import NodeFacts, read_node_facts
from jobs.run_folder import RunFolder, read_json
from jobs.stop import read_stop
from jobs.verdict import read_verdict

logger = logging.getLogger(__name__)


def finish(run: RunFolder, token: str, node: NodeFacts, status: int) -> int:
    """Make sure that the execution that just ended has left the run in a known state.

    Args:
        run: the run.
        token: of this submission.
        node: the batch host's facts.
        status: exit code of srun.

    Returns:
        The exit code for the job: 0 unless the run has failed.
    """
    number = run.find_claim(token, node.restart)
    if number is None:  # the step ended before any agent was there
        latest = run.latest_attempt()
        holder = run.attempt(latest).holder
        if holder is None or holder.token != token:
            return 0  # a newer launch has the run
        number = latest + 1
        if not run.claim_attempt(number, token, node.restart, by="batch shell"):
            return 0
    outcome = read_json(run.attempt(number).outcome_json)
    if outcome is None and run.latest_attempt() > number:
        # by submitit's hook, whose requeue may have failed; or Slurm has started the job again
        # while this shell outlived its slurmd: then the state is no longer ours to write
        continue_run(run, number, node, token)
        return 0
    if outcome is None:
        logger.warning("attempt %d: no agent has concluded it, srun left with %d", number, status)
        decision = conclude(run, number, node, token, _decide(run, number, token))
        return 1 if decision.state == "failed" else 0
    if outcome["state"] == "queued" and outcome["cause"] in CONTINUED:
        continue_run(run, number, node, token)  # does nothing where it is queued already
    return 1 if outcome["state"] == "failed" else 0


def _decide(run: RunFolder, number: int, token: str) -> Decision:
    attempt = run.attempt(number)
    spec = read_spec(run, token)
    verdict = read_verdict(run, attempt, spec.resources.world_size)
    return decide(run, number, read_stop(attempt.stop_json), verdict)


def main(run_dir: str, token: str, step_status: str) -> int:
    """Finish; a run that cannot be continued is marked as failed."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
    run, status = RunFolder(Path(run_dir)), int(step_status)
    node = read_node_facts({**os.environ, "SUBMITIT_EXECUTOR": "slurm"})
    try:
        return finish(run, token, node, status)
    except JobsError as error:
        logger.exception("the run could not be continued")
        run.write_state("failed", cause="requeue", reason=str(error), job_id=node.job_id)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
