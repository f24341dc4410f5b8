"""Which keys of the configs differ among runs, and their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.collect import Collection
from jobs.run_row import RunRow


class Configs:
    """Values of config keys, found by the part that holds them."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._tops: dict[str, str] = {}

    def values(self, row: RunRow, keys: Sequence[str]) -> list[Any]:
        """Return the values of some keys, None where the run has no such key."""
        if not keys:
            return []
        if not row.config:
            flat = self._collection.config(row)
            return [flat.get(key) for key in keys]
        parts = {self._top(name): self._collection.part(name) for name in row.config}
        return [parts.get(key.partition(".")[0], {}).get(key) for key in keys]

    def differing(self, rows: Sequence[RunRow]) -> list[str]:
        """Return the keys that differ among the rows of a kind, in the order of the configs."""
        kinds: dict[str, dict[tuple[str, ...], RunRow]] = {}
        for row in rows:
            known = tuple(row.config) or tuple(row.arguments)
            kinds.setdefault(row.kind, {}).setdefault(known, row)
        found: dict[str, None] = {}
        for distinct in kinds.values():
            found.update(dict.fromkeys(self._differing(list(distinct.values()))))
        return list(found)

    def _differing(self, rows: Sequence[RunRow]) -> Iterable[str]:
        whole = [row for row in rows if row.config]
        holders: dict[str, dict[str, int]] = {}
        for row in whole:
            for name in row.config:
                parts = holders.setdefault(self._top(name), {})
                parts[name] = parts.get(name, 0) + 1
        for parts in holders.values():
            flats = [self._collection.part(name) for name in parts]
            if sum(parts.values()) < len(whole):
                flats.append({})
            yield from _unequal_keys(flats)
        yield from _unequal_keys([self._collection.config(row) for row in rows if not row.config])

    def _top(self, name: str) -> str:
        if name not in self._tops:
            first = next(iter(self._collection.part(name)), "")
            self._tops[name] = first.partition(".")[0]
        return self._tops[name]


def _unequal_keys(flats: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if len(flats) > 1:
        first = flats[0]
        for key in dict.fromkeys(key for flat in flats for key in flat):
            if any(key not in flat or flat[key] != first.get(key) for flat in flats):
                yield key
