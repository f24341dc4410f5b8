"""Rank facts, gathers with and without gradient, small agreements between ranks.

Everything works without a process group, as world size 1. Nothing is pickled: objects travel as
json, rows as their bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

GatherMode = Literal["full", "sharded", "legacy_local_grad", "legacy_local_loss"]
Number = TypeVar("Number", int, float)

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class RankFacts:
    """Who this process is among the processes of the run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and 0 <= self.local_rank <= self.rank):
            raise ValueError(f"{self}: need 0 <= local_rank <= rank < world_size")

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RankFacts:
        """Read torchrun's variables; a process without any of them is alone.

        Raises:
            ValueError: if only some of the variables are set.
        """
        environ = os.environ if environ is None else environ
        missing = [name for name in _RANK_VARIABLES if name not in environ]
        if len(missing) == len(_RANK_VARIABLES):
            return cls()
        if missing:
            raise ValueError(f"{missing} not set; start all ranks with torchrun, or unset the rest")
        return cls(*(int(environ[name]) for name in _RANK_VARIABLES))


def init_process_group(
    facts: RankFacts,
    *,
    timeout_sec: float = 600.0,
    use_cuda: bool | None = None,
    init_method: str = "env://",
) -> torch.device:
    """Join the process group and return this rank's device.

    CUDA tensors go through nccl, CPU tensors through gloo, in one group. A lone process needs none.

    Args:
        facts: this process.
        timeout_sec: after how many seconds a collective that a peer never joins fails.
        use_cuda: False keeps to the CPU where a GPU is present; None takes CUDA if it is there.
        init_method: rendezvous address; torchrun's environment by default.

    Raises:
        ValueError: if this node has no GPU with the number ``facts.local_rank``.
    """
    use_cuda = torch.cuda.is_available() if use_cuda is None else use_cuda
    device = torch.device("cpu")
    if use_cuda:
        if facts.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {facts.local_rank} has no GPU: {torch.cuda.device_count()} visible "
                "here; start at most one process per GPU"
            )
        device = torch.device("cuda", facts.local_rank)
        torch.cuda.set_device(device)
    if facts.world_size == 1:
        return device
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if use_cuda else "gloo",
        init_method=init_method,
        rank=facts.rank,
        world_size=facts.world_size,
        timeout=timedelta(seconds=timeout_sec),
        device_id=device if use_cuda else None,
    )
    return device


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether a process group exists (of one process also)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Rank in the process group, 0 without one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes in the group, 1 without one."""
    return dist.get_world_size() if is_distributed() else 1


# Gathers of a batch: every rank holds as many rows, rank order is row order.


class _GatherSummed(torch.autograd.Function):
    """All-gather whose backward sums the gradient over ranks and keeps this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather_no_grad(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        size = grad.shape[0] // world_size()
        if grad.is_cuda:
            mine = grad.new_empty((size, *grad.shape[1:]))
            dist.reduce_scatter_tensor(mine, grad)
            return mine
        total = grad.clone()
        dist.all_reduce(total)
        return total.narrow(0, rank() * size, size)


def gather_with_grad(x: Tensor) -> Tensor:
    """Rows ``[B, ...]`` of all ranks as ``[W*B, ...]``; backward sums over ranks.

    Where every rank has the loss of the whole batch, the gradient here is W times the full-batch
    gradient, and the mean over ranks that DDP takes makes it exact. All ranks must run the
    backward.
    """
    return _GatherSummed.apply(x) if world_size() > 1 else x


def gather_no_grad(x: Tensor) -> Tensor:
    """Rows ``[B, ...]`` of all ranks as ``[W*B, ...]``, detached."""
    x = x.detach().contiguous()
    if world_size() == 1:
        return x
    gathered = x.new_empty((x.shape[0] * world_size(), *x.shape[1:]))
    dist.all_gather_into_tensor(gathered, x)
    return gathered


def gather_local_grad(x: Tensor) -> Tensor:
    """Rows of all ranks; backward returns this rank's rows of its own gradient, without a sum.

    As EgoVLP trained (its spec, section 4): after DDP's mean the gradient is 1/W of the true one.
    """
    if world_size() == 1:
        return x
    gathered, start = gather_no_grad(x), rank() * x.shape[0]
    return torch.cat([gathered[:start], x, gathered[start + x.shape[0] :]])


class GatheredPair(NamedTuple):
    """What a contrastive loss takes: queries, and the candidates where they are not the same rows.

    ``info_nce(**pair._asdict(), scale=...)``. Row i belongs to candidate ``offset + i``.
    """

    video: Tensor
    text: Tensor
    all_video: Tensor | None = None
    all_text: Tensor | None = None
    offset: int = 0


def gather_pair(video: Tensor, text: Tensor, mode: GatherMode = "full") -> GatheredPair:
    """Gather paired embeddings ``[B, D]`` of all ranks, in float32 or wider, for a loss.

    Gradients are as they stand after DDP's mean over ranks:

    - ``full``: every rank scores all pairs; exact full-batch gradient (LaViLa's recipes).
    - ``sharded``: a rank scores its rows against all; exact too, logits ``[B, W*B]`` instead of
      ``[W*B, W*B]``; the loss is this rank's share, its mean over ranks is the batch's.
    - ``legacy_local_grad``: all pairs, gradient not summed over ranks, 1/W of the true one (EgoVLP,
      and open_clip without local_loss and gather_with_grad).
    - ``legacy_local_loss``: this rank's rows against candidates without gradient (open_clip with
      local_loss only).

    LaViLa spec section 4, EgoVLP spec section 4.

    Raises:
        ValueError: for another mode, or if the two shapes differ.
    """
    if video.shape != text.shape:
        raise ValueError(f"video {tuple(video.shape)} and text {tuple(text.shape)} are not pairs")
    own, others, offset = gather_group([video, text], mode)
    if others is None:
        return GatheredPair(own[0], own[1])
    return GatheredPair(own[0], own[1], others[0], others[1], offset)


def gather_group(
    parts: Sequence[Tensor], mode: GatherMode = "full"
) -> tuple[list[Tensor], list[Tensor] | None, int]:
    """Gather matrices whose rows belong together, ``[B, D]`` each of its own width.

    Returns:
        What is scored; the candidates, if they are not the same rows; the candidate of row 0. The
        modes are those of `gather_pair`.

    Raises:
        ValueError: for another mode, or if the row counts differ.
    """
    gathers = {
        "full": gather_with_grad,
        "sharded": gather_with_grad,
        "legacy_local_grad": gather_local_grad,
        "legacy_local_loss": gather_no_grad,
    }
    if mode not in gathers:
        raise ValueError(f"gather mode {mode!r}: allowed are {', '.join(gathers)}")
    parts = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]
    # one collective for all: a fraction of the latency, and no order of backwards to agree on
    gathered = gathers[mode](torch.cat(parts, dim=1)).split([x.shape[1] for x in parts], dim=1)
    if mode in ("full", "legacy_local_grad"):
        return list(gathered), None, 0
    return list(parts), list(gathered), rank() * parts[0].shape[0]


# Gathers for evaluation: ranks hold different numbers of samples.


def gather_rows(index: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Collect per-sample rows from all ranks, each sample once, ordered by index, on every rank.

    Args:
        index: ``[n]`` int64 sample indices of this rank; n may differ between ranks and be 0. An
            index that occurs again (a sampler's padding) counts once, from the lowest rank.
        tensors: name -> ``[n, ...]`` rows in the order of ``index``. A rank without rows may pass
            none. The dtype and the shape of a row are the same on all ranks.

    Returns:
        The sorted indices ``[N]`` and name -> ``[N, ...]``, without gradient, on the device of
        ``index``.

    Raises:
        ValueError: on every rank, if a row count or a row's dtype or shape does not agree.
    """
    short = [k for k, v in tensors.items() if v.shape[:1] != index.shape]
    own = {k: [str(v.dtype).removeprefix("torch."), *v.shape[1:]] for k, v in tensors.items()}
    headers = gather_json([index.shape[0], own, short])
    for source, (count, _, wrong) in enumerate(headers):
        if wrong:
            raise ValueError(f"rank {source}: {wrong} have not as many rows as the index, {count}")
    layouts = [header[1] for header in headers if header[0]]
    if not layouts:
        return index, {k: v.detach() for k, v in tensors.items()}
    if any(other != layouts[0] for other in layouts):
        raise ValueError(f"rows differ between ranks: {layouts}")

    layout = {"": ["int64"]} | layouts[0]
    counts = [header[0] for header in headers]
    packed = _pack({"": index.to(torch.int64), **tensors}, layout, index.device)
    gathered = _unpack(_gather_ragged(packed, counts), layout)
    order = gathered[""].argsort(stable=True)
    sorted_index = gathered.pop("")[order]
    first = torch.ones_like(sorted_index, dtype=torch.bool)
    first[1:] = sorted_index[1:] != sorted_index[:-1]
    return sorted_index[first], {k: v[order[first]] for k, v in gathered.items()}


def gather_objects_by_index(
    index: Sequence[int], objects: Sequence[Any]
) -> tuple[list[int], list[Any]]:
    """``gather_rows`` for texts, lists and dicts: anything json holds (tuples return as lists).

    Raises:
        ValueError: if the two lengths differ.
    """
    rows = gather_json(list(zip(index, objects, strict=True)))
    by_index: dict[int, Any] = {}
    for i, value in (row for rank_rows in rows for row in rank_rows):
        by_index.setdefault(i, value)
    order = sorted(by_index)
    return order, [by_index[i] for i in order]


def gather_json(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order; anything json holds."""
    text = json.dumps(value).encode()
    if world_size() == 1:
        return [json.loads(text)]
    counts = gather_no_grad(torch.tensor([len(text)])).tolist()
    packed = torch.frombuffer(bytearray(text), dtype=torch.uint8).unsqueeze(1)
    data, values, start = _gather_ragged(packed, counts), [], 0
    for count in counts:
        values.append(json.loads(data[start : start + count].numpy().tobytes()))
        start += count
    return values


def _gather_ragged(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of all ranks, ``counts[r]`` from rank r, concatenated; padded only on the way."""
    most = max(counts)
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: rows.shape[0]] = rows
    gathered = gather_no_grad(padded)
    return torch.cat([gathered[r * most : r * most + n] for r, n in enumerate(counts)])


Layout = Mapping[str, Sequence[Any]]
"""Name of a column -> [dtype name, *shape of a row]."""


def _pack(columns: Mapping[str, Tensor], layout: Layout, device: torch.device) -> Tensor:
    """The rows of all columns side by side, as bytes ``[n, row bytes]``.

    A rank without rows may lack columns; its empty result is as wide as the others'.
    """
    count = columns[""].shape[0]
    parts = []
    for name, (dtype, shape) in _row_types(layout).items():
        column = columns[name] if count else torch.empty((0, *shape), dtype=dtype)
        rows = column.detach().to(device).reshape(count, shape.numel())
        parts.append(_dense(rows).view(torch.uint8))
    return torch.cat(parts, dim=1)


def _unpack(packed: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Invert ``_pack``."""
    columns: dict[str, Tensor] = {}
    start = 0
    for name, (dtype, shape) in _row_types(layout).items():
        size = shape.numel() * dtype.itemsize
        part = _dense(packed[:, start : start + size]).view(dtype)
        columns[name] = part.reshape(packed.shape[0], *shape)
        start += size
    return columns


def _row_types(layout: Layout) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {
        name: (getattr(torch, dtype), torch.Size(shape)) for name, (dtype, *shape) in layout.items()
    }


def _dense(x: Tensor) -> Tensor:
    # contiguous() leaves the strides of a single row as they are, and view(dtype) reads them
    return x.clone(memory_format=torch.contiguous_format)


# Small agreements. They use CPU tensors, so they do not wait for the GPU's queue.


def broadcast_object(value: Any) -> Any:
    """Rank 0's ``value`` on every rank; anything json holds. Other ranks may pass None."""
    text = json.dumps(value if rank() == 0 else None).encode()
    if world_size() == 1:
        return json.loads(text)
    size = torch.tensor([len(text)])
    dist.broadcast(size, src=0)
    data = torch.zeros(int(size), dtype=torch.uint8)
    if rank() == 0:
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    return json.loads(data.numpy().tobytes())


def all_agree_max(value: Number) -> Number:
    """The largest value of all ranks; whole numbers are exact up to 2**53."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return type(value)(largest.item())


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of ``x`` over ranks, detached; float32 or wider, e.g. a loss to log."""
    total = x.detach().to(torch.promote_types(x.dtype, torch.float32)).clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def barrier() -> None:
    """Wait until all ranks are here; work queued on a GPU may still run."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


class AsyncFlag:
    """A flag that any rank may raise and all see at the same call, one call later.

    Each call starts a MAX-reduce on a gloo group of its own and reads the one before, which had a
    whole step to finish: the network's latency is hidden, and no GPU is touched. All ranks
    construct it, and call ``exchange`` equally often.

    Args:
        timeout_sec: after how many seconds without a peer ``exchange`` raises RuntimeError.
    """

    def __init__(self, timeout_sec: float = 600.0) -> None:
        self._group: dist.ProcessGroup | None = None
        if world_size() > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_sec))
            assert isinstance(group, dist.ProcessGroup)  # every rank is a member
            self._group = group
        self._flag = torch.zeros(1, dtype=torch.uint8)
        self._work: dist.Work | None = None

    def exchange(self, local: bool) -> bool:
        """Post ``local``; return whether any rank's flag was up at the previous call."""
        if self._work is not None:
            self._work.wait()
        anywhere = bool(self._flag.item())
        self._flag = torch.tensor([local], dtype=torch.uint8)
        if self._group is not None:
            self._work = dist.all_reduce(
                self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True
            )
        return anywhere

    def close(self) -> None:
        """Give up the group; what was posted last is not waited for."""
        self._work = None
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None
