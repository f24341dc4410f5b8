"""The torchrun command of one node and the environment of its ranks. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from jobs.environment import ATTEMPT, HOME, MAIN_LOG, RANK_LOG, RUN_DIR, STOP_FILE
from jobs.node import NodeFacts
from jobs.rendezvous import Rendezvous
from jobs.spec import JobSpec

# Long enough for ranks that must still save when torchrun itself is told to end.
SHUTDOWN_TIMEOUT_SEC = 30


@dataclass(frozen=True)
class RankPlace:
    """Where the ranks of one attempt read and write."""

    run_dir: str
    attempt: int
    stop_file: str
    home: str
    rank_log: str
    main_log: str


def torchrun_command(
    spec: JobSpec,
    node: NodeFacts,
    rendezvous: Rendezvous,
    *,
    place: RankPlace,
    python: str = "python",
    knows_shutdown_timeout: bool = True,
) -> tuple[list[str], dict[str, str]]:
    """Return argv and the added environment with which a node starts its ranks.

    Args:
        spec: what to run.
        node: this node.
        rendezvous: where the nodes meet.
        place: the attempt's files.
        python: the interpreter.
        knows_shutdown_timeout: whether the installed torch has that flag (2.11 may not).
    """
    is_host = "true" if node.index == 0 else "false"
    argv = [
        *(python, "-m", "torch.distributed.run"),
        f"--nnodes={node.count}",
        f"--nproc-per-node={spec.resources.processes_per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={rendezvous.host}:{rendezvous.port}",
        f"--rdzv-id={rendezvous.id}",
        # left out, torchrun compares host names to find the host, which odd DNS defeats
        f"--rdzv-conf=is_host={is_host}",
        f"--local-addr={rendezvous.local_address}",
        "--max-restarts=0",
        # left out, torchrun makes a folder in /tmp and, when it is killed, leaves it there
        f"--log-dir={PurePosixPath(place.stop_file).parent / 'torchrun'}",
    ]
    if knows_shutdown_timeout:
        argv.append(f"--shutdown-timeout={SHUTDOWN_TIMEOUT_SEC}")
    # jobs.rank sends the rank's output to its log, then runs the module in the same process
    argv += ["-m", "jobs.rank", spec.module, *spec.arguments]
    env = {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **dict(spec.env),
        RUN_DIR: place.run_dir,
        ATTEMPT: str(place.attempt),
        STOP_FILE: place.stop_file,
        HOME: place.home,
        RANK_LOG: place.rank_log,
        MAIN_LOG: place.main_log,
    }
    return argv, env
