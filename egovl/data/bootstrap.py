"""The published sampler of Egoinstructor's captioner: a fixed sample with replacement.

Every epoch, training and test alike, draws the same list, which leaves out about a third of the
data (its spec, 6.1). `legacy_bootstrap_sampler` repeats it; the default is a permutation a epoch.
"""

from __future__ import annotations

import math

import torch

_BLOCK = 32  # numbers that torch's sampler draws at once


def bootstrap_indices(count: int, draws: int, generator: torch.Generator) -> list[int]:
    """`draws` rows of `count`, with replacement, as torch's random sampler draws them."""
    ids: list[int] = []
    while len(ids) < draws:
        size = min(_BLOCK, draws - len(ids))
        ids += torch.randint(count, (size,), generator=generator).tolist()
    return ids


def bootstrap_generator(seeds: torch.Generator) -> torch.Generator:
    """The generator that one random number of `seeds` seeds."""
    drawn = torch.empty((), dtype=torch.int64).random_(generator=seeds)
    return torch.Generator().manual_seed(int(drawn))


def bootstrap_ranks(
    count: int, batch_size: int, world_size: int, seeds: torch.Generator
) -> list[list[int]]:
    """Rows of every rank, whole batches on all of them: a rank has every `world_size`-th draw."""
    step = batch_size * world_size
    total = math.ceil(count / step) * step
    ids = bootstrap_indices(count, total, bootstrap_generator(seeds))
    return [ids[rank::world_size] for rank in range(world_size)]
