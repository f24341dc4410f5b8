"""What a test does with a local Slurm: submit, look, preempt, kill a node."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm import processes
from tests.slurm.testbed import LocalSlurm
from tests.slurm.waiting import wait_for


class SlurmClient:
    """Commands against one local Slurm, with none of an outer job's variables."""

    def __init__(self, local: LocalSlurm) -> None:
        self.local = local
        self.settings = local.settings

    @property
    def environment(self) -> dict[str, str]:
        outer = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return outer | self.local.environment

    def run(self, *command: str) -> str:
        """Standard output of a Slurm command.

        Raises:
            AssertionError: it failed; its message is in it.
        """
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def submit(self, script: str, *options: str) -> int:
        """Submit a shell script's text; the job id. Its output is in the log folder."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(f"#!/bin/sh\n{script}\n")
            file.flush()
            output = self.settings.path("log", "job-%j.out")
            return int(
                self.run(
                    *("sbatch", "--parsable", "--open-mode=append", f"--output={output}"),
                    *(f"--chdir={self.settings.folder}", *options, file.name),
                )
            )

    def job(self, job_id: int) -> dict[str, str]:
        """Fields of `scontrol show job`; empty when Slurm has forgotten it."""
        command = ["scontrol", "--oneliner", "show", "job", str(job_id)]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        words = done.stdout.split() if done.returncode == 0 else []
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job_id: int) -> str:
        """RUNNING, PENDING, COMPLETED, ...; empty when Slurm has forgotten the job."""
        return self.job(job_id).get("JobState", "")

    def restarts(self, job_id: int) -> int:
        """How often Slurm has started the job again."""
        return int(self.job(job_id).get("Restarts", "0"))

    def wait_state(self, job_id: int, *states: str, seconds: float = 60.0) -> str:
        """Wait until the job is in one of these states; return it."""
        what = f"job {job_id} to be {' or '.join(states)}"

        def wanted() -> str:
            state = self.state(job_id)
            return state if state in states else ""

        try:
            return wait_for(wanted, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.job(job_id)}") from None

    def start_intruder(self) -> int:
        """Submit an urgent job that needs every node, and so preempts all that runs."""
        nodes = f"--nodes={self.settings.num_nodes}"
        return self.submit("sleep 600", "--partition=urgent", "--exclusive", nodes)

    def preempt(self, job_id: int, seconds: float = 150.0) -> None:
        """Preempt a running job; return when it has yielded and the nodes are free again."""
        assert self.state(job_id) == "RUNNING", f"job {job_id} is {self.state(job_id) or 'gone'}"
        intruder = self.start_intruder()
        try:
            self.wait_state(intruder, "RUNNING", seconds=seconds)
            assert self.state(job_id) != "RUNNING", f"job {job_id} still runs beside {intruder}"
        finally:
            self.cancel(intruder)

    def cancel(self, job_id: int) -> None:
        """Cancel a job and wait for its end."""
        self.run("scancel", str(job_id))
        self.wait_state(job_id, "CANCELLED", "COMPLETED", "FAILED", "", seconds=120.0)

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        self.run("scancel", "--user=root")
        wait_for(lambda: not self.run("squeue", "-h").strip(), 120.0, "all jobs to end")

    def kill_node(self, name: str) -> None:
        """kill -9 the slurmd of a node; slurmstepd and what it runs live on."""
        pid = self.local.daemon(name).pid
        assert pid is not None, f"{name} does not run"
        processes.kill({pid})

    @contextmanager
    def paused_node(self, name: str) -> Iterator[None]:
        """Have the slurmd of a node not answer for the length of a block, under ten seconds."""
        pid = self.local.daemon(name).pid
        assert pid is not None, f"{name} does not run"
        processes.send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            processes.send(pid, signal.SIGCONT)

    def revive_nodes(self) -> None:
        """Start the slurmd of every dead node; it reports itself back to the controller."""
        for name in self.settings.node_names:
            if self.local.daemon(name).pid is None:
                self.local.start_node(name)

    def processes_on(self, node: str) -> dict[int, str]:
        """Command line by pid of what jobs run on a node, orphans of a killed slurmd too."""
        name = f"SLURMD_NODENAME={node}".encode()
        found: dict[int, str] = {}
        for pid in processes.job_processes(self.settings.folder):
            entry = Path(f"/proc/{pid}")
            try:
                if name in (entry / "environ").read_bytes().split(b"\0"):
                    found[pid] = (entry / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:  # it has ended
                continue
        return found

    def find_rank(self, run_dir: Path, rank: int) -> int | None:
        """Pid of a rank of a run, wherever it is at work; None where it is not."""
        wanted = {f"EGOVL_RUN_DIR={run_dir}".encode(), f"RANK={rank}".encode()}
        for pid in processes.job_processes(self.settings.folder):
            entry = Path(f"/proc/{pid}")
            try:
                variables = set((entry / "environ").read_bytes().split(b"\0"))
                if wanted <= variables and b"jobs.rank" in (entry / "cmdline").read_bytes():
                    return pid
            except OSError:  # it has ended
                continue
        return None
