from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from egovl import dist
from egovl.losses.contrastive import info_nce, ssl_clip
from egovl.losses.ranking import max_margin
from egovl.losses.similarity import cosine_matrix
from tests.ranks import run_ranks

PER_RANK = 3


class Towers(nn.Module):
    """Two linear towers and two temperatures."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.video = nn.Parameter(torch.randn(4, 5, generator=generator))
        self.text = nn.Parameter(torch.randn(6, 5, generator=generator))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.log_pseudo = nn.Parameter(torch.tensor(0.4))

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        scales = self.log_scale.exp(), self.log_pseudo.exp()
        return nn.functional.normalize(video @ self.video), text @ self.text, *scales


def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    video = torch.randn(size, 4, generator=generator)
    text = torch.randn(size, 6, generator=generator)
    return video, text, torch.arange(size) % 3 != 1


def parameter_grads(model: nn.Module, rows: Tensor, mode: Any, kind: str) -> dict[str, Tensor]:
    """Gradients of one step on ``rows`` of the whole batch, and the loss."""
    video, text, is_human = (x[rows] for x in batch(PER_RANK * dist.world_size()))
    v, t, scale, pseudo_scale = model(video, text)
    pair = dist.gather_pair(v, t, mode)
    if kind == "info_nce":
        loss = info_nce(**pair._asdict(), scale=scale).loss + 0 * pseudo_scale
    elif kind == "ssl":
        flags = dist.gather_no_grad(is_human)
        arguments = {"is_human": flags, "scale": scale, "pseudo_scale": pseudo_scale}
        loss = ssl_clip(**pair._asdict(), **arguments).loss
    else:
        loss = max_margin(cosine_matrix(pair.text, pair.video), 0.3) + 0 * scale * pseudo_scale
    model.zero_grad()
    loss.backward()
    return grads_of(model) | {"loss": dist.mean_over_ranks(loss)}


def grads_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): param.grad.clone()
        for name, param in model.named_parameters()
        if param.grad is not None
    }


STEPS = [
    ("full", "info_nce"),
    ("sharded", "info_nce"),
    ("legacy_local_grad", "info_nce"),
    ("full", "ssl"),
    ("sharded", "ssl"),
    ("full", "margin"),
]


def rank_results() -> dict[str, Any]:
    """Everything a rank shows, in one group, as starting processes takes seconds."""
    rank, world = dist.rank(), dist.world_size()
    model = DistributedDataParallel(Towers())
    total = PER_RANK * world
    rows = torch.arange(total)[rank * PER_RANK : (rank + 1) * PER_RANK]
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(1))
    x = torch.arange(2.0).add(10 * rank).requires_grad_()
    gathered = dist.gather_with_grad(x)
    (gathered * (rank + 1) * torch.arange(2.0 * world)).sum().backward()
    return {
        "steps": {step: parameter_grads(model, rows, *step) for step in STEPS},
        "shuffled": parameter_grads(model, shuffled[rows], "full", "ssl"),
        "gathered": gathered.detach(),
        "gathered_grad": x.grad,
        "flags": dist.gather_no_grad(torch.tensor([rank == 1])),
        "bfloat16": dist.gather_no_grad(torch.full((1, 2), rank, dtype=torch.bfloat16)),
        "rows": uneven_rows(),
        "refused": refused_rows(),
        "nothing": dist.gather_rows(torch.empty(0, dtype=torch.int64), {"a": torch.empty(0, 2)}),
        "objects": dist.gather_objects_by_index(
            list(range(rank, 7, world)), [f"narration \u00e9 {i}" for i in range(rank, 7, world)]
        ),
        "json": dist.gather_json({"rank": rank, "text": "x" * 10 * rank}),
        "largest": [dist.all_agree_max(5 * rank), dist.all_agree_max(-0.5 - rank)],
        "broadcast": dist.broadcast_object({"run": [1, None]} if rank == 0 else None),
        "flag": flag_story(),
        "late": late_peer(),
    }


def uneven_rows() -> tuple[Tensor, dict[str, Tensor]]:
    """Rank 0 has nothing, rank r has 2r samples; the sampler repeated sample 0 on the last rank."""
    rank = dist.rank()
    if rank == 0:
        return dist.gather_rows(torch.empty(0, dtype=torch.int64), {})
    index = torch.arange(2 * rank) * 10 + 3 - rank
    if rank == dist.world_size() - 1:
        index = torch.cat([index, torch.tensor([2])])
    return dist.gather_rows(index, row_values(index, rank))


def row_values(index: Tensor, rank: int) -> dict[str, Tensor]:
    return {
        "scores": (
            index[:, None, None] + torch.tensor([[0.0, 0.5], [0.25, 0.125]])
        ).requires_grad_(),
        "answer": index * 7,
        "is_human": index % 2 == 0,
        "half": index.to(torch.bfloat16),
        "rank": torch.full_like(index, rank, dtype=torch.uint8),
    }


def refused_rows() -> list[str]:
    """The messages of two wrong calls; the group works on."""
    messages = []
    for tensors in (
        {"a": torch.zeros(2, 3 + dist.rank())},
        {"a": torch.zeros(2 if dist.rank() else 1)},
    ):
        with pytest.raises(ValueError, match=r"rank") as caught:
            dist.gather_rows(torch.arange(2), tensors)
        messages.append(str(caught.value))
    return messages


def flag_story() -> list[bool]:
    """Calls 1 and 4 are raised by one rank only; ranks arrive at different times."""
    rank, flag, seen = dist.rank(), dist.AsyncFlag(), []
    for call in range(6):
        time.sleep(0.02 * ((rank + call) % 2))
        raised = (call == 1 and rank == dist.world_size() - 1) or (call == 4 and rank == 0)
        seen.append(flag.exchange(raised))
    flag.close()
    return seen


def late_peer() -> dict[str, Any]:
    """Rank 0 calls while the others are away: the first call returns, the second gives up."""
    flag = dist.AsyncFlag(timeout_sec=3.0)
    dist.barrier()
    result: dict[str, Any] = {}
    if dist.rank() == 0:
        start = time.monotonic()
        flag.exchange(True)
        result["seconds"] = time.monotonic() - start
        with pytest.raises(RuntimeError):
            flag.exchange(True)
        result["raised"] = True
    dist.barrier()
    flag.close()
    return result


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(request.param, rank_results)


def single_process(world: int, kind: str) -> dict[str, Tensor]:
    """The whole batch in this process."""
    model = Towers()
    video, text, is_human = batch(PER_RANK * world)
    v, t, scale, pseudo_scale = model(video, text)
    if kind == "info_nce":
        loss = info_nce(v, t, scale).loss + 0 * pseudo_scale
    elif kind == "ssl":
        loss = ssl_clip(v, t, is_human, scale, pseudo_scale).loss
    else:
        loss = max_margin(cosine_matrix(t, v), 0.3) + 0 * scale * pseudo_scale
    loss.backward()
    return grads_of(model) | {"loss": loss.detach()}


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_gradient_after_ddp_equals_that_of_one_process(
    ranks: list[dict[str, Any]], step: tuple[str, str]
) -> None:
    golden = single_process(len(ranks), step[1])
    towers = ("video", "text")
    factor = 1 / len(ranks) if step[0] == "legacy_local_grad" else 1.0
    for result in ranks:
        for name, value in result["steps"][step].items():
            expected = golden[name] * (factor if name in towers else 1.0)
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    assert golden["video"].abs().max() > 1e-3


def test_the_order_in_which_pairs_fall_on_ranks_does_not_matter(
    ranks: list[dict[str, Any]],
) -> None:
    for name, value in ranks[0]["shuffled"].items():
        golden = ranks[0]["steps"][("full", "ssl")][name]
        torch.testing.assert_close(value, golden, rtol=1e-6, atol=1e-6)


def test_gather_keeps_rank_order_and_sums_gradients(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    everything = [x for r in range(world) for x in (10 * r, 10 * r + 1)]
    total = sum(range(1, world + 1))
    for rank, result in enumerate(ranks):
        assert result["gathered"].tolist() == everything
        assert result["gathered_grad"].tolist() == [total * 2 * rank, total * (2 * rank + 1)]
        assert result["flags"].tolist() == [r == 1 for r in range(world)]
        assert result["bfloat16"].tolist() == [[r, r] for r in range(world)]


def test_rows_of_uneven_ranks_come_once_and_in_order(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    owner = {10 * i + 3 - r: r for r in range(world - 1, 0, -1) for i in range(2 * r)}
    owner.setdefault(2, world - 1)
    for result in ranks:
        index, rows = result["rows"]
        assert index.tolist() == sorted(owner)
        expected = row_values(index, 0)
        for name in ("scores", "answer", "is_human", "half"):
            assert rows[name].dtype == expected[name].dtype
            assert torch.equal(rows[name], expected[name]), name
            assert not rows[name].requires_grad
        assert rows["rank"].tolist() == [owner[i] for i in sorted(owner)]


def test_rows_that_do_not_agree_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        shapes, counts = result["refused"]
        assert "differ between ranks" in shapes
        assert "rank 0" in counts
        assert "'a'" in counts


def test_no_rank_with_rows_gives_no_rows(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        index, rows = result["nothing"]
        assert index.shape == (0,)
        assert rows["a"].shape == (0, 2)


def test_objects_and_values_reach_every_rank(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    for result in ranks:
        index = list(range(7))
        assert list(result["objects"]) == [index, [f"narration \u00e9 {i}" for i in index]]
        assert result["json"] == [{"rank": r, "text": "x" * 10 * r} for r in range(world)]
        assert result["largest"] == [5 * (world - 1), -0.5]
        assert isinstance(result["largest"][0], int)
        assert result["broadcast"] == {"run": [1, None]}


def test_a_flag_of_one_rank_is_seen_by_all_at_the_next_call(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert result["flag"] == [False, False, True, False, False, True]


def test_a_flag_does_not_wait_at_once_and_not_for_ever(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["late"]["raised"]
    assert ranks[0]["late"]["seconds"] < 2


def test_everything_works_without_a_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert dist.gather_with_grad(x) is x
    assert dist.gather_local_grad(x) is x
    assert not dist.gather_no_grad(x).requires_grad
    for mode in ("full", "sharded", "legacy_local_grad", "legacy_local_loss"):
        pair = dist.gather_pair(x, 2 * x, mode)
        golden = info_nce(x, 2 * x, 3.0).loss
        torch.testing.assert_close(info_nce(**pair._asdict(), scale=3.0).loss, golden)
    index, rows = dist.gather_rows(torch.tensor([4, 1, 4]), {"a": torch.tensor([5.0, 6.0, 7.0])})
    assert index.tolist() == [1, 4]
    assert rows["a"].tolist() == [6.0, 5.0]
    assert dist.gather_objects_by_index([2, 0], ["b", "a"]) == ([0, 2], ["a", "b"])
    assert dist.broadcast_object((1, 2)) == [1, 2]
    assert dist.all_agree_max(3) == 3
    assert dist.mean_over_ranks(torch.tensor(2.0, dtype=torch.bfloat16)).dtype == torch.float32
    dist.barrier()
    flag = dist.AsyncFlag()
    assert [flag.exchange(value) for value in (True, False, False)] == [False, True, False]
    flag.close()
    assert (dist.rank(), dist.world_size()) == (0, 1)


def test_pairs_are_gathered_in_float32() -> None:
    pair = dist.gather_pair(torch.ones(3, 4).bfloat16(), torch.ones(3, 4).bfloat16())
    assert pair.video.dtype == pair.text.dtype == torch.float32


def test_unknown_mode_and_unpaired_shapes_are_refused() -> None:
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"'local'.*full, sharded"):
        dist.gather_pair(x, x, "local")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not pairs"):
        dist.gather_pair(x, x[:2])


def test_rank_facts_come_from_the_environment_of_torchrun() -> None:
    variables = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    assert dist.RankFacts.from_env(variables) == dist.RankFacts(5, 1, 8)
    assert dist.RankFacts.from_env({}) == dist.RankFacts()
    assert dist.RankFacts().is_main
    with pytest.raises(ValueError, match="LOCAL_RANK"):
        dist.RankFacts.from_env({"RANK": "0", "WORLD_SIZE": "1"})
    with pytest.raises(ValueError, match="rank < world_size"):
        dist.RankFacts(rank=2, local_rank=0, world_size=2)


def test_more_local_ranks_than_gpus_are_refused() -> None:
    facts = dist.RankFacts(rank=99, local_rank=99, world_size=100)
    with pytest.raises(ValueError, match="local rank 99 has no GPU"):
        dist.init_process_group(facts, use_cuda=True)


def failing_rank() -> None:
    if dist.rank() == 1:
        raise ValueError("rank one is broken")
    time.sleep(60)


def test_a_failing_rank_ends_the_others_and_shows_its_error() -> None:
    start = time.monotonic()
    with pytest.raises(Exception, match="rank one is broken"):
        run_ranks(2, failing_rank)
    assert time.monotonic() - start < 45
