from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from egovl import dist
from egovl.data.types import Batch
from egovl.engine.chunked import backward_in_chunks
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.engine.folder import RunFolder
from egovl.engine.signals import StopRequest
from egovl.engine.task import StepOutput
from egovl.engine.trainer import Trainer, TrainPlan
from egovl.losses.configs import EgoNCEConfig, InfoNCEConfig, LossConfig, SslClipConfig
from egovl.models.configs import (
    DualEncoderConfig,
    TextTowerConfig,
    VideoTowerConfig,
)
from egovl.tasks.configs import ContrastiveConfig
from tests.ranks import run_ranks

VIDEO = VideoTowerConfig(
    image_size=16, patch_size=8, width=16, depth=2, heads=2, num_frames=2, time_init="rand"
)
TEXT = TextTowerConfig(vocab_size=20, context_length=6, width=16, heads=2, depth=1)
MODEL = DualEncoderConfig(video=VIDEO, text=TEXT, embed_dim=8, pseudo_temperature_init=0.1)
# float64: what is left of a difference is the algorithm's
EXACT = 1e-12


def built(config: DualEncoderConfig = MODEL, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    learned = replace(config, learn_pseudo_temperature=True)
    return learned.build().to(dtype).train()


def batch(rows: int, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def tags(classes: int) -> Tensor:
        return (torch.rand(rows, classes, generator=generator) < 0.4).to(dtype)

    return Batch(
        index=torch.arange(rows),
        video=255 * torch.rand(rows, 1, 3, 2, 16, 16, generator=generator, dtype=dtype),
        tokens=torch.randint(1, 20, (rows, 6), generator=generator),
        token_mask=torch.ones(rows, 6, dtype=torch.bool),
        labels={"noun": tags(4), "verb": tags(3), "is_human": torch.arange(rows) % 3},
    )


@dataclass
class PassThrough:
    """The task without its pixel normalisation, which casts to float32."""

    inner: Any

    def embed(self, model: nn.Module, part: Batch) -> Any:
        assert part.video is not None
        out = model(part.video[:, 0] / 128 - 1, part.tokens, part.token_mask)
        from egovl.engine.task import Embedded

        shared = {"scale": out.logit_scale, "pseudo_scale": out.pseudo_logit_scale}
        return Embedded({"video": out.video, "text": out.text}, shared)

    def loss(self, embedded: Any, part: Batch) -> StepOutput:
        return self.inner.loss(embedded, part)


def task(loss: LossConfig, gather: str = "full") -> PassThrough:
    return PassThrough(ContrastiveConfig(loss=loss, gather=gather).build())  # type: ignore[arg-type]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(x: Tensor) -> Tensor:
    return x


LOSSES = [InfoNCEConfig(), EgoNCEConfig(), SslClipConfig()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("micro_batch", [1, 4, 7])
def test_parts_give_the_gradient_of_the_whole_batch(loss: LossConfig, micro_batch: int) -> None:
    whole, chunked, rows = built(), built(), batch(10)
    plain = task(loss)
    expected = plain.loss(plain.embed(whole, rows), rows)
    expected.loss.backward()
    found = backward_in_chunks(plain, chunked, rows, micro_batch, contextlib.nullcontext, same)
    torch.testing.assert_close(found.loss, expected.loss, atol=EXACT, rtol=EXACT)
    wanted = gradients(whole)
    assert (wanted["pseudo_logit_scale"].item() != 0) == (loss.name == "ssl_clip")
    torch.testing.assert_close(gradients(chunked), wanted, atol=EXACT, rtol=EXACT)
    assert found.report.keys() == expected.report.keys()


def test_gradients_add_up_on_those_already_there_and_follow_the_scaler() -> None:
    once, rows = built(), batch(6)
    plain = task(InfoNCEConfig())
    backward_in_chunks(plain, once, rows, 4, contextlib.nullcontext, same)
    single = gradients(once)
    backward_in_chunks(plain, once, rows, 4, contextlib.nullcontext, lambda x: 2 * x)
    for name, grad in gradients(once).items():
        torch.testing.assert_close(grad, 3 * single[name])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_both_forwards_of_a_part_drop_the_same_paths(device: str) -> None:
    """Against one graph over the same parts, whose forwards draw in the same order once."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    config = replace(MODEL, video=replace(VIDEO, drop_path=0.5))
    graph, chunked, other = (built(config).to(device) for _ in range(3))
    rows, plain = batch(9).to(device), task(InfoNCEConfig())
    torch.manual_seed(5)
    parts = [plain.embed(graph, rows[i : i + 3]) for i in (0, 3, 6)]
    embeds = {k: torch.cat([part.rows[k] for part in parts]) for k in ("video", "text")}
    plain.loss(replace(parts[-1], rows=embeds), rows).loss.backward()
    torch.manual_seed(5)
    backward_in_chunks(plain, chunked, rows, 3, contextlib.nullcontext, same)
    torch.testing.assert_close(gradients(chunked), gradients(graph), atol=EXACT, rtol=EXACT)
    torch.manual_seed(6)
    backward_in_chunks(plain, other, rows, 3, contextlib.nullcontext, same)
    key = "video.blocks.1.mlp.fc1.weight"
    assert not torch.allclose(gradients(other)[key], gradients(graph)[key])


def _rank_gradients(micro_batch: int) -> list[dict[str, Tensor]]:
    """Of both exact ways to gather; one DDP, so the second finds its buckets in final order."""
    model, rows = built(), batch(12)
    network = DistributedDataParallel(model)
    mine = rows[dist.rank() * 6 : (dist.rank() + 1) * 6]
    found: list[dict[str, Tensor]] = []
    for gather in ("full", "sharded"):
        model.zero_grad()
        backward_in_chunks(
            task(EgoNCEConfig(), gather), network, mine, micro_batch, contextlib.nullcontext, same
        )
        found.append(gradients(model))
    return found


def test_two_ranks_in_parts_give_the_gradient_of_the_global_batch() -> None:
    whole, rows = built(), batch(12)
    plain = task(EgoNCEConfig())
    plain.loss(plain.embed(whole, rows), rows).loss.backward()
    for by_gather in run_ranks(2, _rank_gradients, 4):
        for found in by_gather:
            torch.testing.assert_close(found, gradients(whole), atol=EXACT, rtol=EXACT)


def trained(folder: Path, micro_batch: int | None, precision: str) -> dict[str, Tensor]:
    """Two steps of the real task in the real trainer, in float32."""
    rows = batch(8, torch.float32)
    assert rows.video is not None
    model = built(dtype=torch.float32)
    plan = TrainPlan(
        task=ContrastiveConfig(loss=EgoNCEConfig()).build(),
        model=model,
        batches=lambda start: iter([rows] * 3),
        global_batch=8,
        total_steps=2,
        evaluations=[],
        seed=0,
    )
    config = TrainerConfig(steps=2, micro_batch=micro_batch, precision=precision)  # type: ignore[arg-type]
    optim = OptimConfig(name="sgd", lr=0.1)
    run = RunFolder(folder, 1)
    Trainer(plan, optim, config, run, StopRequest(), torch.device("cpu")).fit()
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def test_the_trainer_takes_the_same_steps_in_parts(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", None, "fp32")
    parts = trained(tmp_path / "parts", 3, "fp32")
    torch.testing.assert_close(parts, whole, atol=5e-6, rtol=1e-5)  # float32 rounding
    start = dict(built(dtype=torch.float32).named_parameters())
    key = "video.blocks.0.mlp.fc1.weight"
    assert (parts[key] - start[key]).abs().max() > 1e-3


def test_parts_work_under_autocast(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", None, "bf16")
    parts = trained(tmp_path / "parts", 3, "bf16")
    torch.testing.assert_close(parts, whole, atol=1e-2, rtol=2e-2)


def test_a_task_that_cannot_be_embedded_in_parts_is_refused(tmp_path: Path) -> None:
    class Whole:
        def train_step(self, model: nn.Module, batch: Any) -> StepOutput:
            return StepOutput(model(batch).sum())

        def after_step(self, model: nn.Module) -> None: ...

    make: Callable[[], Trainer] = lambda: Trainer(  # noqa: E731
        TrainPlan(Whole(), nn.Linear(1, 1), lambda start: iter([]), 1, 1, [], 0),
        OptimConfig(),
        TrainerConfig(steps=1, micro_batch=2),
        RunFolder(tmp_path, 1),
        StopRequest(),
        torch.device("cpu"),
    )
    with pytest.raises(ValueError, match=r"micro_batch 2: Whole cannot .* trainer\.accumulate"):
        make()
    with pytest.raises(ValueError, match="micro_batch 2 and accumulate 3"):
        TrainerConfig(steps=1, micro_batch=2, accumulate=3)
