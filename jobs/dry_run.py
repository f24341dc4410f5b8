"""What a launch would run, in words: `--dry-run`."""

from __future__ import annotations

import shlex
import sys

from jobs.agent import NodeAgent
from jobs.batch import batch_parameters, script_text
from jobs.cluster import Cluster, slurm_parameters
from jobs.command import RankPlace, torchrun_command
from jobs.node import NodeFacts
from jobs.rendezvous import Rendezvous
from jobs.run_folder import RunFolder
from jobs.snapshot import take_snapshot
from jobs.spec import JobSpec
from jobs.submit import Place, check_configuration, run_folder_of


def render(spec: JobSpec, cluster: Cluster, place: Place, executor: str) -> str:
    """Return what a launch would run: the sbatch script and node 0's torchrun command."""
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs], rules=place.rules)
    check_configuration(spec, place, snapshot)
    run = run_folder_of(spec, place, snapshot)
    agent = NodeAgent(str(run.path), str(snapshot.path), "TOKEN")
    host = "127.0.0.1" if spec.resources.nodes == 1 else "NODE0"
    argv, env = torchrun_command(
        spec,
        NodeFacts(count=spec.resources.nodes),
        Rendezvous(host, 0, f"{run.path.name}-a1-r0", 0, host),
        place=RankPlace(
            run_dir=str(run.path),
            attempt=1,
            stop_file="NODE_LOCAL/stop.json",
            home=str(place.home),
            rank_log=str(run.attempt(1).logs / "0.{local_rank}.log"),
            main_log=str(run.attempt(1).main_log),
        ),
        python=sys.executable,
    )
    parts = [f"# run folder\n{run.path}"]
    if executor == "slurm":
        parts.append(f"# sbatch script\n{sbatch_text(run, spec, cluster, agent)}")
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    command = " \\\n  ".join([f"cd {snapshot.path} &&", *variables, shlex.join(argv)])
    parts.append(f"# torchrun, on node 0 (port, stop file and token are chosen there)\n{command}")
    return "\n\n".join(parts)


def sbatch_text(run: RunFolder, spec: JobSpec, cluster: Cluster, agent: NodeAgent) -> str:
    """Return the batch script of a run as submitit writes it."""
    parameters = batch_parameters(slurm_parameters(spec, cluster), agent)
    return script_text(run.submission, parameters)
