"""Is this node fit to train? Asked in a process of its own while the ranks import torch.

Every node writes `attempts/<n>/preflight/<k>.json`: each check with its seconds. Node 0 reads all
of them: a node that is not fit is left out of the next attempt; if none is fit, it is the job, and
the run fails with the reasons. The same follows from what the ranks then find out themselves
(`jobs.preflight_ranks`).

    python -m jobs.preflight RUN_DIR ATTEMPT TOKEN PROGRESS_FILE
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.environment import code_first
from jobs.errors import SpecError
from jobs.health import PreflightLimits
from jobs.node import NodeFacts, read_node_facts
from jobs.preflight_checks import (
    MEETING_SEC,
    Meeting,
    Outcome,
    check_cpus,
    check_free_space,
    check_shared_disk,
    compare_nodes,
)
from jobs.preflight_gpus import check_gpus
from jobs.preflight_ranks import LINKS, count_reports, join_reports, rank_request, read_reports
from jobs.rank import die_with_parent
from jobs.run_folder import AttemptFolder, RunFolder, read_json, write_json_atomic
from jobs.spec import JobSpec, Resources
from jobs.stop import Stop

logger = logging.getLogger(__name__)

TOTAL_SEC = 20.0
_OTHERS_SEC = 40.0  # for the reports of nodes that began later
STOP_SEC = 20.0  # for ranks that step already to save
_RANKS_SEC = 3600.0  # to import and meet; programs that check nothing are not looked at for ever

# What these find wrong with every node is the job's fault, or the site's, not a node's.
JOB_CHECKS = ("cpus", "free_space")


def run_checks(
    run: RunFolder,
    folder: AttemptFolder,
    node: NodeFacts,
    resources: Resources,
    note: Callable[[str], None] = lambda name: None,
    agent_pid: int | None = None,
) -> dict[str, Any]:
    """Check this node and return its report.

    Args:
        run: the run.
        folder: the attempt's.
        node: this node.
        resources: what the job asked for.
        note: hears the name of each check as it begins.
        agent_pid: the process below which the job's processes on this node run.
    """
    limits, started = resources.preflight, time.monotonic()
    began = time.time()
    meeting = Meeting(folder.preflight, node.index, node.count)
    checks: dict[str, Callable[[], Outcome]] = {
        "cpus": lambda: check_cpus(resources.cpus_per_node),
        "free_space": lambda: check_free_space(run, limits.free_gb),
    }
    if resources.gpus_per_node:
        pid = os.getppid() if agent_pid is None else agent_pid
        wanted, foreign_gb = resources.gpus_per_node, limits.foreign_gpu_gb
        checks["gpus"] = lambda: check_gpus(wanted, foreign_gb, pid)
    # last: it waits for the others
    checks["shared_disk"] = lambda: check_shared_disk(meeting, started + MEETING_SEC)
    results: list[dict[str, Any]] = []
    for name, check in checks.items():
        note(name)
        start = time.monotonic()
        state, value, message = check()
        seconds = round(time.monotonic() - start, 4)
        result = {"name": name, "state": state, "seconds": seconds}
        results.append({**result, "value": value, "message": message})
    is_failed = any(result["state"] == "failed" for result in results)
    return {
        "node": node.index,
        "name": node.name,
        "state": "failed" if is_failed else "passed",
        "seconds": round(time.monotonic() - started, 4),
        "began": began,
        "checks": results,
        "meeting": meeting.facts(),
    }


def judge(
    reports: Mapping[int, Mapping[str, Any]], limits: PreflightLimits, earlier: set[str]
) -> Stop | None:
    """Say what the reports of an attempt's nodes lead to; None if all are fit.

    Args:
        reports: node -> its report.
        limits: of the job.
        earlier: checks for which a node was left out before, in this run.

    Returns:
        A stop that excludes the unfit nodes, or one that excludes none: it is the job.
    """
    faults = compare_nodes(reports, limits.clock_skew_sec, limits.visible_sec)
    checks: dict[int, set[str]] = {node: {"shared_disk"} for node in faults}
    for node, report in reports.items():
        for result in report.get("checks", ()):
            if result["state"] == "failed":
                faults.setdefault(node, []).append(f"{result['name']}: {result['message']}")
                checks.setdefault(node, set()).add(result["name"])
    if not faults:
        return None
    names = {node: str(reports[node]["name"]) for node in faults}
    detail = "; ".join(f"{names[node]}: {', '.join(faults[node])}" for node in sorted(faults))
    is_job = len(faults) == len(reports)
    found = set[str]().union(*checks.values())
    if is_job and (len(reports) == 1 or (len(reports) == 2 and found == {LINKS})):
        # one node cannot tell, nor can the two ends of one link: their second failure of the same
        # kind, elsewhere, can
        is_job = not found.isdisjoint(JOB_CHECKS) or not found.isdisjoint(earlier)
    deadline = time.time() + STOP_SEC
    if is_job:
        where = "every node" if len(reports) > 1 else "its node"
        return Stop("preflight", deadline, "preflight", f"{where} is unfit for this job: {detail}")
    excluded = tuple(names[node] for node in sorted(faults))
    return Stop("preflight", deadline, "preflight", detail, exclude=excluded)


def earlier_failures(run: RunFolder, number: int) -> set[str]:
    """Return the checks that failed somewhere in the attempts before, where that ended them."""
    found: set[str] = set()
    for each in [n for n in run.attempt_numbers() if n < number]:
        folder = run.attempt(each)
        if (read_json(folder.outcome_json) or {}).get("cause") != "preflight":
            continue
        ranks = folder.preflight.glob(folder.rank_preflight_json("[0-9]*").name)
        for path in (*folder.preflight.glob("[0-9]*.json"), *ranks):
            results = (read_json(path) or {}).get("checks", ())
            found |= {result["name"] for result in results if result["state"] == "failed"}
    return found


class Preflight:
    """The agent's side: starts the checks beside the ranks, and on node 0 draws the conclusion.

    Attributes:
        request: what the ranks find in their environment.
    """

    def __init__(
        self, run: RunFolder, folder: AttemptFolder, node: NodeFacts, resources: Resources
    ) -> None:
        self._run = run
        self._folder = folder
        self._node = node
        self._limits = limits = resources.preflight
        self._world_size = resources.world_size
        # they are Slurm's nodes that may be unfit
        self._is_on = limits.is_on and node.executor == "slurm"
        self.request = rank_request(folder, node, limits) if self._is_on else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._progress = Path()
        self._until = 0.0
        self._reports: dict[int, dict[str, Any]] = {}
        self._is_judged = False
        self._are_ranks_judged = False
        self._ranks_until = time.monotonic() + _RANKS_SEC

    def start(self, token: str, local: Path, code: Path) -> None:
        """Start the checks, once in an attempt.

        Args:
            token: of the submission.
            local: folder in the node's memory.
            code: the snapshot.
        """
        if self._process is not None or not self._is_on:
            return
        self._progress = local / "preflight"
        words = [str(self._run.path), str(self._folder.number), token, str(self._progress)]
        self._until = time.monotonic() + TOTAL_SEC
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.preflight", *words],
            env={**os.environ, **code_first(str(code))},
            cwd=code,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_ignore_stop_signals,
        )

    def look(self) -> Stop | None:
        """Return the stop that the checks lead to, once; None while there is none."""
        return (self._look_at_nodes() or self._look_at_ranks()) if self._process else None

    @property
    def awaits_ranks(self) -> bool:
        """Whether some ranks have written what they found, and not all of it is here."""
        return not self._are_ranks_judged and count_reports(self._folder) > 0

    def _look_at_nodes(self) -> Stop | None:
        if self._process is None:
            return None
        if self._process.poll() is None and time.monotonic() > self._until:
            self._process.kill()
            self._give_up()
        if self._node.index != 0 or self._is_judged:
            return None
        for node in range(self._node.count):
            if node not in self._reports and (
                report := read_json(self._folder.preflight_json(node))
            ):
                self._reports[node] = report
        is_whole = len(self._reports) == self._node.count
        if not is_whole and time.monotonic() < self._until + _OTHERS_SEC:
            return None
        self._is_judged = True
        took = max((report["seconds"] for report in self._reports.values()), default=0.0)
        logger.info("preflight of %d nodes in %.1f s", len(self._reports), took)
        _log_warnings(self._reports)
        if not is_whole:
            logger.warning("no preflight from %d nodes", self._node.count - len(self._reports))
        return self._judge(self._reports)

    def _look_at_ranks(self) -> Stop | None:
        if self._node.index != 0 or self._are_ranks_judged or time.monotonic() > self._ranks_until:
            return None
        ranks = read_reports(self._folder, self._world_size)
        if ranks is None:
            return None
        self._are_ranks_judged = True
        nodes = join_reports(ranks, self._limits)
        took = max(node["seconds"] for node in nodes.values())
        logger.info("preflight of %d ranks in %.2f s", len(ranks), took)
        _log_warnings(nodes)
        return self._judge(nodes)

    def _judge(self, reports: Mapping[int, Mapping[str, Any]]) -> Stop | None:
        return judge(reports, self._limits, earlier_failures(self._run, self._folder.number))

    def close(self) -> None:
        """End checks that still run."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _give_up(self) -> None:
        """Write the report of checks that did not come to an end."""
        try:
            last = self._progress.read_text(encoding="ascii")
        except OSError:
            last = "start"
        message = f"not through after {TOTAL_SEC:g} s, in {last}"
        check = {"name": last, "state": "warned", "seconds": TOTAL_SEC, "value": ""}
        report = {"node": self._node.index, "name": self._node.name, "state": "late"}
        facts = {"seconds": TOTAL_SEC, "checks": [{**check, "message": message}]}
        logger.warning("preflight: %s", message)
        write_json_atomic(self._folder.preflight_json(self._node.index), {**report, **facts})


def _log_warnings(reports: Mapping[int, Mapping[str, Any]]) -> None:
    for report in reports.values():
        for result in report["checks"]:
            if result["state"] == "warned":
                logger.warning("%s: %s: %s", report["name"], result["name"], result["message"])


def _ignore_stop_signals() -> None:
    """Set the child's signals: Slurm may send its warnings to every process of the step."""
    for ignored in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)


def main(run_dir: str, number: str, token: str, progress: str) -> None:
    """Check this node; the agent's child."""
    run = RunFolder(Path(run_dir))
    folder, node = run.attempt(int(number)), read_node_facts(os.environ)
    values = read_json(run.spec_json(token))
    if values is None:
        raise SpecError(f"{run.path} knows no submission {token}")
    file = Path(progress)
    resources = JobSpec.from_json(values).resources

    def note(name: str) -> None:
        file.write_text(name, encoding="ascii")

    report = run_checks(run, folder, node, resources, note)
    write_json_atomic(folder.preflight_json(node.index), report)


if __name__ == "__main__":
    main(*sys.argv[1:5])
