"""The batch shell's last word: `python -m jobs.after_step RUN TOKEN STATUS`, after srun has ended.

In the normal case node 0's agent has concluded and there is nothing to do. If it could not (it was
killed, or there is no Slurm command where it runs), this concludes the attempt in its place.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from jobs.conclusion import Concluding, ask_slurm, read_spec
from jobs.continuation import CONTINUED
from jobs.errors import JobsError
from jobs.node import NodeFacts, read_node_facts
from jobs.run_folder import RunFolder, read_json
from jobs.stop import Execution, Stop, read_stop
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

    Raises:
        JobsError: if the run should go on and nothing can be queued.
    """
    number = _find_own(run, token, node)
    if number is None:
        return 0
    ended = Concluding(run, number, node, token)
    outcome = read_json(run.attempt(number).outcome_json)
    if run.attempt(number + 1).claim_json.exists():
        # taken by the agent, which may have been killed then, by submitit's hook, or by Slurm's
        # restart of the job, which this shell outlives if its slurmd was killed
        ended.go_on()
        return 1 if outcome is not None and outcome["state"] == "failed" else 0
    if outcome is None:
        logger.warning("attempt %d: no agent has concluded it, srun left with %d", number, status)
    elif outcome["state"] != "queued" or outcome["cause"] not in CONTINUED:
        return 1 if outcome["state"] == "failed" else 0
    world_size = read_spec(run, token).resources.world_size
    verdict = read_verdict(run, run.attempt(number), world_size)
    decision = ended.conclude(_find_stop(ended), verdict)
    return 1 if decision.state == "failed" else 0


def _find_own(run: RunFolder, token: str, node: NodeFacts) -> int | None:
    """Return the attempt of this execution; None if the run belongs to a newer launch."""
    number = run.find_claim(token, node.restart)
    if number is not None:
        return number
    latest = run.latest_attempt()  # the step ended before any agent was there
    holder = run.attempt(latest).holder
    if holder is None or holder.token != token:
        return None
    taken = run.claim_attempt(latest + 1, token, node.restart, by="batch shell")
    return latest + 1 if taken else None


def _find_stop(ended: Concluding) -> Stop | None:
    """Return the request to stop; where the agents could only infer it, Slurm is asked again."""
    attempt = ended.run.attempt(ended.number)
    stop = read_stop(attempt.stop_json)
    if stop is not None and stop.source != "inferred":
        return stop
    ask = read_spec(ended.run, ended.token).resources
    started = float((read_json(attempt.node_json(0)) or {}).get("started") or time.time())
    is_usr2 = stop is not None and stop.detail == signal.SIGUSR2.name
    execution = Execution(ended.node.restart, started + ask.time_limit_sec, ask.lead_sec)
    asked = ask_slurm(ended.node, signal.SIGUSR2 if is_usr2 else signal.SIGTERM, execution)
    if asked.source == "inferred":
        return stop
    # no signal was seen, or one that was inferred to be a preemption: Slurm knows better
    return asked


def main(run_dir: str, token: str, step_status: str) -> int:
    """Finish; a run that cannot be continued from here is stopped."""
    for ignored in (signal.SIGTERM, signal.SIGUSR2):  # Slurm ends the job; a last word remains
        signal.signal(ignored, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
    run, status = RunFolder(Path(run_dir)), int(step_status)
    node = read_node_facts({**os.environ, "SUBMITIT_EXECUTOR": "slurm"})
    try:
        return finish(run, token, node, status)
    except JobsError as error:
        logger.exception("the run could not be continued")
        _stop_here(run, token, node, str(error))
        return 1


def _stop_here(run: RunFolder, token: str, node: NodeFacts, words: str) -> None:
    """Say in the run's state that nothing is queued, unless the run has become another's."""
    latest = run.latest_attempt()
    claim = read_json(run.attempt(latest).claim_json) or {}
    is_own = claim.get("token") == token and claim.get("restart", 0) <= node.restart
    is_next = claim.get("after") == node.job_id and not run.job_json(str(claim["token"])).exists()
    if not is_own and not is_next:
        return
    latest -= is_next
    outcome = read_json(run.attempt(latest).outcome_json) or {}
    reason = f"nothing could be queued from node {node.name}: {words}; go on with: python -m jobs"
    facts = {"attempt": latest, "job_id": node.job_id, "executor": "slurm"}
    facts |= {name: outcome.get(name) for name in ("cause", "nodes")}
    facts |= {name: run.read_state().get(name) for name in ("budgets", "excluded")}
    run.write_state("stopped", **facts, reason=f"{reason} resume {run.path}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
