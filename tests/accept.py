"""``make accept LINE=journey-1``: re-run an acceptance line of the project's milestones by name.

A line is a list of commands; each prints its own figure. LINE=list shows them all.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.architecture.source import ROOT

PYTEST = "-m pytest -q -s -p no:cacheprovider"


@dataclass(frozen=True)
class Line:
    """What is shown, by which commands (of this Python), in about how many minutes."""

    claim: str
    commands: tuple[str, ...]
    minutes: int


LINES = {
    "journey-1": Line(
        "three seeds of the demo: inter >= 90, intra >= 60; shuffled frames near chance",
        ("-m tests.integration.seeds",),
        20,
    ),
    "journey-2": Line(
        "pretrain.py --nodes 4 --partition a100, then collect_results.py, on the four-node Slurm",
        (f"{PYTEST} tests/slurm/test_journey.py -k published_command",),
        4,
    ),
    "journey-3": Line(
        "20 preemptions under both process trackers: 0 steps lost, bit-equal",
        ("-m tests.slurm.soak --part journey",),
        45,
    ),
    "journey-4": Line(
        "kill -9 of a rank, an agent, a slurmd: the run goes on from its last COMMIT",
        (f"{PYTEST} tests/slurm/test_hard_loss.py",),
        6,
    ),
    "journey-5": Line(
        "code edited between submission and start is not seen",
        (f"{PYTEST} tests/slurm/test_snapshot_isolation.py",),
        2,
    ),
    "journey-6": Line(
        "--help without torch, numpy, submitit, against a bare argparse script",
        (
            f"{PYTEST} tests/launchers/test_launchers.py -k help",
            "-m pytest tests/bench/test_help.py --benchmark-only -q -s",
        ),
        1,
    ),
    "journey-7": Line(
        "real video files decode with the right count, size and rotation, or fail clearly",
        (f"{PYTEST} tests/egovl/data/test_decode.py",),
        1,
    ),
    "journey-8": Line(
        "parity with the original systems' numbers",
        (f"{PYTEST} tests/parity",),
        2,
    ),
    "journey-9": Line(
        "everything CI runs, and the benchmarks",
        (
            '-m pytest -q -m "not soak" -n 3 --dist loadfile',
            "-m pytest tests/bench --benchmark-only -q -s",
        ),
        30,
    ),
    "jobs-1": Line(
        "every row of the job layer's matrix on the real Slurm, its full product too",
        (f"{PYTEST} tests/slurm",),
        60,
    ),
    "jobs-2": Line(
        "launch, arrays, snapshot, status and collection beside the usual ways, in one run each",
        (
            "-m pytest --benchmark-only -q -s tests/bench/test_help.py tests/bench/test_launch.py "
            "tests/bench/test_snapshot.py tests/bench/test_array.py tests/bench/test_status.py "
            "tests/bench/test_collect.py",
        ),
        15,
    ),
    "jobs-3": Line(
        "100 warned stops lose no step; 1,000 killed races never continue a run twice",
        ("-m tests.slurm.soak --part stops", "-m tests.slurm.soak --part claims"),
        60,
    ),
    "jobs-4": Line(
        "every pain that the README names has its test",
        (f"{PYTEST} tests/architecture/test_readme.py -k names",),
        1,
    ),
    "dual-1": Line(
        "parity on every family of EgoVLP and of LaViLa without the narrator",
        (f"{PYTEST} tests/parity",),
        2,
    ),
    "dual-2": Line(
        "full-size checkpoints in the released layouts: in, strictly, and out key for key",
        (f"{PYTEST} tests/egovl/convert/test_full_size.py",),
        5,
    ),
    "dual-3": Line(
        "EK-100 MIR equals its definition, against two full sorts",
        (
            f"{PYTEST} tests/egovl/metrics",
            "-m pytest tests/bench/test_metrics.py --benchmark-only -q -s",
        ),
        5,
    ),
    "dual-4": Line(
        "both pretrainings, finetuning and every benchmark at twice chance, on the real Slurm",
        ("-m tests.slurm.dual",),
        40,
    ),
    "dual-5": Line(
        "prepared chunks in training order against a reader per clip; a worker on a named pipe",
        (
            "-m pytest tests/bench/test_bench_loading.py --benchmark-only -q -s",
            f"{PYTEST} tests/egovl/data/test_loader.py -k hanging_file",
        ),
        5,
    ),
    "dual-6": Line(
        "DDP, FSDP2, gradient checkpointing and 1, 2, 4 processes agree to 1e-4",
        ("-m tests.integration.agreement",),
        10,
    ),
    "dual-7": Line(
        "annotations of 0.4 and 4 million rows: first batch, memory, same-video lookup",
        ("-m pytest tests/bench/test_annotations.py --benchmark-only -q -s",),
        5,
    ),
}


def main() -> int:
    """Run one line; its exit status is the first failing command's."""
    name = sys.argv[1] if len(sys.argv) == 2 else "list"
    if name not in LINES:
        for key, line in LINES.items():
            print(f"{key}  about {line.minutes:2d} min  {line.claim}")
        return 0 if name == "list" else 2
    line, started = LINES[name], time.monotonic()
    print(f"{name}: {line.claim} (about {line.minutes} min)", flush=True)
    for command in line.commands:
        print(f"$ python {command}", flush=True)
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    print(f"{name}: shown in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
