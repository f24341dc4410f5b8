"""Search of the nearest keys among millions, in parts: no matrix of all scores is ever made.

Letters: Q queries, N keys, D width, G keys of a group, M groups of a part, k results.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_GROUP = 64  # keys whose best score stands for all of them


class RetrievalIndex:
    """Keys to search by dot product.

    The best k of a part lie in the k groups with the best maxima, so only these are looked into: a
    maximum over groups costs a fraction of the product, where a top-k over all scores costs more
    than it.

    Args:
        keys_ND: on the device where the search runs, in the type that it computes in.
        part_keys: keys compared at once, rounded down to whole groups.
        part_queries: queries compared at once.
    """

    def __init__(
        self, keys_ND: Tensor, *, part_keys: int = 1 << 16, part_queries: int = 1 << 10
    ) -> None:
        if keys_ND.dim() != 2 or not len(keys_ND):
            raise ValueError(f"keys are {list(keys_ND.shape)}; an index needs [N, D], N above 0")
        self._keys_ND = keys_ND
        self._part_keys = max(_GROUP, part_keys // _GROUP * _GROUP)
        self._part_queries = part_queries
        size = min(part_queries * self._part_keys, part_queries * len(keys_ND))
        self._room = torch.empty(size, dtype=keys_ND.dtype, device=keys_ND.device)

    def __len__(self) -> int:
        return len(self._keys_ND)

    @torch.no_grad()
    def search(self, queries_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and numbers of the `k` nearest keys, ``[Q, k]`` each, the best first.

        Of equal scores any may come first.

        Raises:
            ValueError: fewer keys than `k`, or queries of another width.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k is {k}; the index has {len(self)} keys")
        if queries_QD.shape[1:] != self._keys_ND.shape[1:]:
            raise ValueError(
                f"queries {list(queries_QD.shape)}, keys {list(self._keys_ND.shape)}: widths differ"
            )
        queries_QD = queries_QD.to(self._keys_ND)
        found = [self._search_part(part, k) for part in queries_QD.split(self._part_queries)]
        scores, ids = zip(*found, strict=True)
        return torch.cat(scores), torch.cat(ids)

    def _search_part(self, queries_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        count = len(queries_QD)
        best = queries_QD.new_empty(count, 0)
        best_ids = torch.empty(count, 0, dtype=torch.int64, device=queries_QD.device)
        for first, keys in self._parts():
            scores = torch.mm(queries_QD, keys.T, out=self._view(count, len(keys)))
            values, ids = _top(scores, min(k, len(keys)))
            best = torch.cat([best, values], dim=1)
            best_ids = torch.cat([best_ids, ids + first], dim=1)
            best, places = best.topk(min(k, best.shape[1]), dim=1)
            best_ids = best_ids.gather(1, places)
        return best, best_ids

    def _parts(self) -> Iterator[tuple[int, Tensor]]:
        for first in range(0, len(self), self._part_keys):
            yield first, self._keys_ND[first : first + self._part_keys]

    def _view(self, queries: int, keys: int) -> Tensor:
        """The same memory for every part."""
        return self._room[: queries * keys].view(queries, keys)


def _top(scores_QN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best `k` of every row, and their places."""
    groups, rest = divmod(scores_QN.shape[1], _GROUP)
    if groups <= 2 * k:
        return scores_QN.topk(k, dim=1)
    # a group is every M-th key, so that maxima run along memory
    whole = groups * _GROUP
    by_group = scores_QN[:, :whole].unflatten(1, (_GROUP, groups))
    chosen = by_group.amax(dim=1).topk(k, dim=1).indices
    steps = torch.arange(_GROUP, device=scores_QN.device) * groups
    places = (chosen[:, :, None] + steps).flatten(1)
    if rest:
        last = torch.arange(whole, whole + rest, device=scores_QN.device)
        places = torch.cat([places, last.expand(len(places), -1)], dim=1)
    values, order = scores_QN.gather(1, places).topk(k, dim=1)
    return values, places.gather(1, order)


def distinct(names: list[tuple[object, ...]]) -> list[int]:
    """Places of the first of every name, in order."""
    first: dict[tuple[object, ...], int] = {}
    for place, name in enumerate(names):
        first.setdefault(name, place)
    return list(first.values())
