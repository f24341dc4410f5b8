"""How a model is spread over ranks: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from egovl import dist
from egovl.engine.configs import TrainerConfig


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard parameters, gradients and optimiser state over all ranks, in place (FSDP2).

    Each entry of a module list, a block of a tower, is gathered while it computes and freed after;
    the rest of the model is one more such unit. To be called before the optimiser is built.
    """
    mesh = init_device_mesh(device.type, (dist.world_size(),))
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                if next(block.parameters(), None) is not None:  # frozen ones are sharded as well
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # tasks also call these by name, past the forward at which parameters would be gathered
    for module in model.modules():
        if isinstance(module, FSDPModule):
            for name in getattr(module, "forward_methods", ()):
                register_fsdp_forward_method(module, name)


def wrap(model: nn.Module, config: TrainerConfig, device: torch.device) -> nn.Module:
    """Return what a training step calls: compiled if asked, and replicated unless sharded."""
    network: nn.Module = model
    if config.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    if dist.world_size() > 1 and not isinstance(model, FSDPModule):
        network = DistributedDataParallel(
            network,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=config.find_unused_parameters,
            gradient_as_bucket_view=True,
        )
    return network


@contextlib.contextmanager
def gradients_stay_local(network: nn.Module) -> Generator[None]:
    """Let backwards inside the block add up on their rank, to be reduced by a later one."""
    if isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    elif isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)
    else:
        yield


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Generator[None]:
    """Hold a sharded model's weights on every rank, so that ranks may call it unequally often.

    Ranks evaluate unequal numbers of batches and write texts of unequal length; a model that
    gathered its weights at every call would wait for the others for ever.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def clip_grad_norm(params: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their norm over all ranks is at most ``limit``; return it."""
    norm = torch.nn.utils.clip_grad_norm_(params, limit).detach()
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
