"""The main job on the real Slurm: a user's checkout, its launcher, real mp4 files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, load

from jobs.run_folder import RunFolder
from tests.conftest import copy_project
from tests.slurm.client import SlurmClient
from tests.slurm.waiting import wait_for

PROFILE = """\
executor: slurm
gpus_per_node: {gpus}
cpus_per_gpu: 1
memory_per_gpu_gb: 2
time_limit: 1h
partition: a100
"""
RECIPE = """\
# The demo's recipe, sized for the tests.
base: demo.yaml
train: {{loader: {{batch_size: 16, num_workers: 1}}}}
evaluate: {{egomcq: {{loader: {{num_workers: 1}}}}}}
optim: {{warmup_steps: 5}}
trainer: {{steps: {steps}, eval_every: null, save_every: {save_every}, log_every: 1}}
"""
FIELDS = ("loss", "accuracy", "parent_loss", "lr", "grad_norm")


def make_checkout(
    folder: Path, corpus: Path, *, gpus: int, steps: int, save_every: int = 1000
) -> Path:
    """A checkout whose defaults name this Slurm and a recipe on the rendered corpus."""
    project = copy_project(folder, corpus)
    configs = project / "configs"
    for profile in (configs / "clusters").glob("example*.yaml"):
        profile.unlink()
    (configs / "clusters/testbed.yaml").write_text(PROFILE.format(gpus=gpus))
    (configs / "debug/journey.yaml").write_text(RECIPE.format(steps=steps, save_every=save_every))
    (configs / "defaults.yaml").write_text(
        "cluster: testbed\nruns: runs\nrecipes:\n  pretrain: configs/debug/journey.yaml\n"
    )
    return project


def command(project: Path, *words: str) -> str:
    """Output of a launcher, run as a user would."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


@dataclass
class Journey:
    """One launched pretraining."""

    slurm: SlurmClient
    folder: RunFolder

    @staticmethod
    def launch(slurm: SlurmClient, project: Path, *words: str) -> Journey:
        """Run the launcher and find its run folder in what it prints."""
        shown = command(project, "launchers/pretrain.py", *words)
        lines = [line for line in shown.splitlines() if line.startswith("run folder")]
        return Journey(slurm, RunFolder(Path(lines[0].split(maxsplit=2)[2])))

    @property
    def job_id(self) -> int:
        return int(self.folder.read_state()["job_id"])

    def records(self) -> list[dict[str, Any]]:
        """Whole lines of metrics.jsonl."""
        if not self.folder.metrics_jsonl.exists():
            return []
        lines = self.folder.metrics_jsonl.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_step(self, step: int, seconds: float = 240.0) -> None:
        """Wait until the newest attempt itself has trained, and has reached a step."""

        def is_there() -> bool:
            newest = self.folder.latest_attempt()
            steps = [r["step"] for r in self.records() if r["attempt"] == newest]
            return max(steps, default=0) >= step

        wait_for(is_there, seconds, lambda: f"step {step}; {self.trouble()}")

    def wait_done(self, seconds: float = 300.0) -> None:
        """Wait for the end, which has to be a good one."""
        ends = ("done", "failed", "cancelled", "stopped")
        wait_for(lambda: self.folder.read_state().get("state") in ends, seconds, self.trouble)
        assert self.folder.read_state()["state"] == "done", self.trouble()

    def preempt(self) -> None:
        """Have a job of a higher partition take the nodes for a moment."""
        self.slurm.preempt(self.job_id)

    def trouble(self) -> str:
        """State and ends of logs, for a message."""
        logs = sorted(self.folder.path.glob("attempts/*/logs/*.log"))
        logs += sorted(self.folder.submission.glob("*.out"))
        tails = [f"== {path}\n{path.read_text(errors='replace')[-1200:]}" for path in logs]
        return "\n".join([str(self.folder.read_state()), *tails])

    def curve(self) -> dict[int, list[float | None]]:
        """Every step's numbers, exactly as written; the highest attempt of a step counts."""
        found: dict[int, tuple[int, list[float | None]]] = {}
        for record in self.records():
            held = found.get(record["step"], (0, []))[0]
            if record["kind"] == "train" and record["attempt"] >= held:
                numbers = [record.get(name) for name in FIELDS]
                found[record["step"]] = record["attempt"], numbers
        return {step: numbers for step, (_, numbers) in sorted(found.items())}

    def repeated_steps(self) -> int:
        """Steps that were trained more than once: lost by a stop."""
        steps = [record["step"] for record in self.records() if record["kind"] == "train"]
        return len(steps) - len(set(steps))

    def weights(self) -> dict[str, torch.Tensor]:
        """Every tensor of the newest checkpoint."""
        reader = FileSystemReader(
            str(self.folder.checkpoints / f"step-{self.folder.last_commit_step()}")
        )
        stored = reader.read_metadata().state_dict_metadata
        state = {k: torch.empty(v.size, dtype=v.properties.dtype) for k, v in stored.items()}
        load(state, storage_reader=reader, no_dist=True)
        return state


def differences(run: Journey, unbroken: Journey) -> list[str]:
    """What differs between two runs, bit for bit; empty where nothing does."""
    found: list[str] = []
    mine, theirs = run.curve(), unbroken.curve()
    if mine.keys() != theirs.keys():
        found.append(f"steps {len(mine)} and {len(theirs)}")
    unequal = [step for step in mine if mine[step] != theirs.get(step)]
    if unequal:
        found.append(f"loss curve from step {unequal[0]} on ({len(unequal)} steps)")
    a, b = run.weights(), unbroken.weights()
    found += [f"tensor {key}" for key in a.keys() | b.keys() if not torch.equal(a[key], b[key])]
    return found
