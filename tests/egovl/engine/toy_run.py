"""A small real training for the engine's tests: ``python -m tests.egovl.engine.toy_run --help``.

Started under torchrun. A regression with dropout, so that a wrong random state shows in the loss;
several layers, so that DDP's buckets matter.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from egovl import dist
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.evaluator import Evaluation
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.task import StepOutput
from egovl.engine.trainer import Trainer, TrainPlan

GLOBAL_BATCH = 8


@dataclass
class Rows:
    index: Tensor
    x: Tensor

    def to(self, device: object, non_blocking: bool = True) -> Rows:
        return self

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.index[rows], self.x[rows])


class Toy:
    """Learns the sum of its inputs; stops itself, or dies, after a step."""

    def __init__(self, stop_file: Path | None, at: int | None, how: str) -> None:
        self.stop_file, self.at, self.how, self.steps = stop_file, at, how, 0

    def train_step(self, model: nn.Module, batch: Rows) -> StepOutput:
        loss = (model(batch.x).squeeze(1) - batch.x.sum(1)).square().mean()
        return StepOutput(loss, {"output": loss.detach() * 2})

    def after_step(self, model: nn.Module) -> None:
        self.steps += 1
        if self.at is not None and self.steps == self.at and dist.rank() == dist.world_size() - 1:
            if self.how == "kill":
                signal.raise_signal(signal.SIGKILL)
            if self.how == "signal":
                signal.raise_signal(signal.SIGTERM)
            elif self.stop_file is not None:
                self.stop_file.write_text("{}")

    def eval_step(self, model: nn.Module, batch: Rows) -> dict[str, Tensor]:
        return {"error": (model(batch.x).squeeze(1) - batch.x.sum(1)).abs()}

    def score(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"error": rows["error"].mean().item(), "samples": float(len(rows["error"]))}


def rows_of(index: Tensor) -> Rows:
    """Samples are a function of their index."""
    x = torch.stack(
        [torch.randn(16, generator=torch.Generator().manual_seed(int(i))) for i in index]
    )
    return Rows(index, x)


def batches(start_sample: int) -> Iterator[Rows]:
    """This rank's part of each global batch."""
    share = GLOBAL_BATCH // dist.world_size()
    position = start_sample
    while True:
        first = position + dist.rank() * share
        yield rows_of(torch.arange(first, first + share))
        position += GLOBAL_BATCH


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--at", type=int)
    parser.add_argument("--how", default="file", choices=("file", "signal", "kill"))
    parser.add_argument("--trainer", type=json.loads, default={})
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    stop_file = args.run_dir / f"stop-{args.attempt}"
    stop = StopRequest(str(stop_file)).install()
    device = dist.init_process_group(dist.RankFacts.from_env(), use_cuda=args.device == "cuda")
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(16, 64), nn.Dropout(0.1), nn.GELU()]
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.GELU()]
    toy = Toy(stop_file, args.at, args.how)
    share = range(dist.rank(), 21, dist.world_size())
    loader = [rows_of(torch.tensor(list(share)[i : i + 4])) for i in range(0, len(share), 4)]
    plan = TrainPlan(
        task=toy,
        model=nn.Sequential(*layers, nn.Linear(64, 1)),
        batches=batches,
        global_batch=GLOBAL_BATCH,
        total_steps=args.steps,
        evaluations=[Evaluation("toy", toy, loader)],
        seed=3,
    )
    config = TrainerConfig(
        **({"steps": args.steps, "log_every": 5, "eval_every": 4} | args.trainer)
    )
    folder = RunFolder(args.run_dir, args.attempt)
    optim = OptimConfig(lr=1e-2, schedule="cosine", warmup_steps=2)
    result = Trainer(plan, optim, config, folder, stop, device).fit()
    folder.write_exit(dist.rank(), {"state": result.outcome, "step": result.step})
    dist.barrier()
    dist.shutdown()


if __name__ == "__main__":
    main()
