"""Ways of spreading one training over processes agree: ``python -m tests.integration.agreement``.

The demo's recipe, a few steps, with plain DDP on two processes as the reference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from tests.conftest import copy_project

TOLERANCE = 1e-4
REFERENCE = ("2 processes, DDP", 2, ())
VARIANTS = (
    ("1 process", 1, ()),
    ("4 processes, DDP", 4, ()),
    (
        "2 processes, gradient checkpointing",
        2,
        ("model.video.gradient_checkpointing=true",),
    ),
    ("2 processes, FSDP2", 2, ("trainer.parallel=fsdp2",)),
    (
        "4 processes, FSDP2, gradient checkpointing",
        4,
        ("trainer.parallel=fsdp2", "model.video.gradient_checkpointing=true"),
    ),
)


def train(
    project: Path, recipe: str, steps: int, seed: int, processes: int, overrides: tuple[str, ...]
) -> list[float]:
    """The loss of every step."""
    with tempfile.TemporaryDirectory(dir=project) as run:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", "-m", "egovl", "train", "--config", recipe),
            *("--run-dir", run, f"seed={seed}", f"trainer.steps={steps}", "evaluate={}"),
            *("trainer.eval_every=null", "trainer.save_every=null", "optim.warmup_steps=2"),
            *overrides,
        ]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
        return [record["loss"] for record in lines if record["kind"] == "train"]


def largest_difference(one: list[float], other: list[float]) -> float:
    """Between two curves of equal length."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> int:
    """Print a table; 1 if a variant is further off than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--corpus", type=Path, help="a rendered one (default: a small one, now)")
    arguments = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus and arguments.corpus.resolve()
        if corpus is None:
            corpus = Path(folder) / "synthetic"
            render_corpus(SyntheticConfig(train_videos=16, eval_videos=5), corpus, workers=2)
        project = copy_project(Path(folder) / "project", corpus)
        for seed in range(arguments.seeds):
            run = (project, "configs/debug/demo.yaml", arguments.steps, seed)
            expected = train(*run, *REFERENCE[1:])
            print(f"seed {seed}: {REFERENCE[0]}: {expected[0]:.6f} -> {expected[-1]:.6f}")
            for name, processes, overrides in VARIANTS:
                off = largest_difference(train(*run, processes, overrides), expected)
                worst = max(worst, off)
                print(f"seed {seed}: {name:45} differs by at most {off:.1e}", flush=True)
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
