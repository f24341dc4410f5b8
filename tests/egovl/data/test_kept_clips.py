"""What a loading process keeps of the clips it has read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from egovl.data.kept_clips import KeptClips


def test_the_least_recently_used_go_first_and_the_size_is_kept() -> None:
    reads: list[str] = []

    def reader(name: str, size: int = 400) -> Callable[[], Tensor]:
        def read() -> Tensor:
            reads.append(name)
            return torch.full((size,), ord(name), dtype=torch.uint8)

        return read

    kept = KeptClips(0.001)  # 1,000 bytes: two of these
    for name in "abacab":
        assert kept.get(name, reader(name))[0] == ord(name)
    assert reads == ["a", "b", "c", "b"]
    kept.get("z", reader("z", 1001))  # too large to be kept, and drops nothing
    kept.get("b", reader("b"))
    kept.get("z", reader("z", 1001))
    assert reads == ["a", "b", "c", "b", "z", "z"]


def test_nothing_is_kept_without_room() -> None:
    kept, count = KeptClips(0), 0
    for _ in range(2):
        count += int(kept.get("a", lambda: torch.ones(1))[0])
    assert kept.get("a", lambda: torch.zeros(1))[0] == 0
    assert count == 2
