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
        "launch, arrays, snapshot, stops, status, collect beside the usual ways, in one run each",
        (
            "-m pytest --benchmark-only -q -s tests/bench/test_help.py tests/bench/test_launch.py "
            "tests/bench/test_snapshot.py tests/bench/test_array.py tests/bench/test_status.py "
            "tests/bench/test_collect.py tests/bench/test_stop.py",
        ),
        8,
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
        "annotations of 0.4, 4 and 40 million rows: first batch, memory, same-video lookup",
        ("-m pytest tests/bench/test_annotations.py --benchmark-only -q -s",),
        8,
    ),
    "hiervl-1": Line(
        "parity on every family of HierVL, its state dict at full size",
        (f"{PYTEST} tests/parity/test_hiervl.py",),
        1,
    ),
    "hiervl-2": Line(
        "SummaryMCQ 15 points above the mean of clips, three seeds; preempted in both turns",
        ("-m tests.slurm.soak_hierarchical",),
        60,
    ),
    "hiervl-3": Line(
        "every ablation from its yaml differs in losses and gradients as its name says",
        (f"{PYTEST} tests/egovl/tasks/test_hierarchical.py",),
        1,
    ),
    "hiervl-4": Line(
        "parent step on stored clips; memory of 64 clips with gradient checkpointing",
        ("-m pytest tests/bench/test_bench_hierarchical.py --benchmark-only -q -s",),
        10,
    ),
    "groundnlq-1": Line(
        "parity on every family of GroundNLQ",
        (f"{PYTEST} tests/parity/test_groundnlq.py",),
        1,
    ),
    "groundnlq-2": Line(
        "three seeds: R@1 IoU 0.5 three times the best fixed window, narrations first is better",
        ("-m tests.integration.grounding",),
        30,
    ),
    "groundnlq-3": Line(
        "inference in buckets, suppression and evaluation, against the straightforward way",
        ("-m pytest tests/bench/test_bench_grounding.py --benchmark-only -q -s",),
        3,
    ),
    "groundnlq-4": Line(
        "bad input is named and the rest goes on",
        (
            f"{PYTEST} tests/egovl/data/test_feature_files.py "
            "tests/egovl/data/datasets/test_nlq.py tests/egovl/tasks/test_grounding.py",
        ),
        2,
    ),
    "egoinstructor-1": Line(
        "parity on every family of Egoinstructor",
        (f"{PYTEST} tests/parity/test_egoinstructor.py",),
        5,
    ),
    "egoinstructor-2": Line(
        "released layouts of retriever and captioner at full size, key for key, in and out",
        (f"{PYTEST} tests/egovl/convert/test_egoinstructor.py",),
        1,
    ),
    "egoinstructor-3": Line(
        "the real clips through retrieval and captioning, 0 to 4 shots, tiny random weights",
        (f"{PYTEST} tests/egovl/test_caption.py",),
        1,
    ),
    "egoinstructor-4": Line(
        "R@1 ten times chance; supports help held-out CIDEr, three seeds; preempted, bit-equal",
        ("-m tests.integration.supports",),
        25,
    ),
    "egoinstructor-5": Line(
        "captions with the cache against without; top-15 of a million keys",
        ("-m pytest tests/bench/test_bench_egoinstructor.py --benchmark-only -q -s",),
        15,
    ),
    "narrator-1": Line(
        "parity of the narrator: forward, generation, pooler, warpers, caption metrics",
        (f"{PYTEST} tests/parity/test_lavila.py -k 'vclm or attn_pool or logits or caption'",),
        1,
    ),
    "narrator-2": Line(
        "full-size narrators in the released layout: in and out key for key",
        (f"{PYTEST} tests/egovl/convert/test_narrator_files.py",),
        1,
    ),
    "narrator-3": Line(
        "narrations with a cache against whole prefixes: 76 steps, 10 texts, GPT-2 base, same ids",
        ("-m pytest tests/bench/test_bench_generation.py --benchmark-only -q -s",),
        10,
    ),
    "narrator-4": Line(
        "2,000 clips in an array on the real Slurm, every shard broken off: equal to the unbroken",
        ("-m tests.slurm.soak_narrate",),
        40,
    ),
    "narrator-5": Line(
        "three seeds: verb and noun of 70 % of held-out clips; narrated texts help EgoMCQ",
        ("-m tests.integration.narrator_seeds",),
        50,
    ),
    "narrator-6": Line(
        "the real clips go through the demo command with a random narrator",
        (f"{PYTEST} tests/integration/test_narrate_demo.py",),
        2,
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
