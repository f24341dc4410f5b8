"""A job that is stopped and goes on writes what an unbroken one writes, each clip once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.configs import NarrationsConfig
from egovl.data.types import Batch
from egovl.narration.clips import PlacedClips, require_places
from egovl.narration.job import Progress, Shard, ShardJob, claim_folder, join_shards
from egovl.shards import read_shards

CLIPS = 23


class Numbers:
    """A job whose texts are draws, so that another order or another seed would show."""

    needs_pixels = False

    def dataset(self, given: Any, config: Any) -> PlacedClips:
        return require_places(given)

    def start(self, model: Any, tokenizer: Any, device: Any) -> None:
        raise AssertionError("not used")

    def write(
        self, batch: Batch, texts: Sequence[Sequence[str]], generator: torch.Generator
    ) -> list[dict[str, Any]]:
        draws = torch.rand(len(texts), generator=generator).tolist()
        return [{"texts": [t[0]], "scores": [d]} for t, d in zip(texts, draws, strict=True)]

    def finish(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return records


@pytest.fixture
def samples(tmp_path: Path) -> PlacedClips:
    lines = [json.dumps([f"v{k // 5}", k, k + 1.5, f"text {k}"]) for k in range(CLIPS)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    (tmp_path / "videos").mkdir()
    config = NarrationsConfig(
        annotations=(tmp_path / "list.jsonl",), video_root=tmp_path / "videos"
    )
    return require_places(config.build())


def task(
    samples: PlacedClips, out: Path, number: int = 0, count: int = 1, every: int = 2
) -> ShardJob:
    loader = LoaderConfig(eval_batch_size=3, num_workers=0, pixels=False)
    shard = Shard(out, number, count, every)
    return ShardJob(Numbers(), samples, loader, shard, seed=7, checkpoint="c0ffee")


class StopAfter:
    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, progress: Progress) -> bool:
        self.left -= 1
        return self.left <= 0


def run(samples: PlacedClips, out: Path, number: int = 0, count: int = 1, stop: int = 99) -> bool:
    return task(samples, out, number, count).run(None, torch.device("cpu"), StopAfter(stop))


def lists(out: Path) -> bytes:
    return (out / "total.jsonl").read_bytes()


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_stopped_shard_goes_on_where_it_was(
    samples: PlacedClips, tmp_path: Path, stop: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(samples, whole)
    tries = 0
    while not run(samples, broken, stop=stop):
        tries += 1
        assert join_shards(Numbers(), broken, 1) is None
    assert tries == (-(-CLIPS // 3) - 1) // stop
    assert join_shards(Numbers(), whole, 1) == join_shards(Numbers(), broken, 1) == CLIPS
    assert lists(whole) == lists(broken)
    assert [r["index"] for r in read_shards(broken / "records")] == list(range(CLIPS))


class Killed(Exception):
    pass


def test_a_kill_loses_at_most_a_part_and_nothing_stands_twice(
    samples: PlacedClips, tmp_path: Path
) -> None:
    class Kill(StopAfter):
        def __call__(self, progress: Progress) -> bool:
            if super().__call__(progress):
                raise Killed
            return False

    out = tmp_path / "out"
    with pytest.raises(Killed):
        task(samples, out).run(None, torch.device("cpu"), Kill(6))
    kept = list(read_shards(out / "records"))
    assert len(kept) == 4 * 3  # two parts of two batches; the third was being gathered
    assert run(samples, out)
    assert run(samples, tmp_path / "whole")
    for folder in (out, tmp_path / "whole"):
        assert join_shards(Numbers(), folder, 1) == CLIPS
    assert lists(out) == lists(tmp_path / "whole")


def test_shards_join_in_the_order_of_the_list_once_all_are_whole(
    samples: PlacedClips, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in (2, 0):
        assert run(samples, out, number, 3)
    assert join_shards(Numbers(), out, 3) is None
    assert run(samples, out, 1, 3)
    assert join_shards(Numbers(), out, 3) == CLIPS
    texts = [json.loads(line)["text"] for line in lists(out).splitlines()]
    assert texts == [[f"text {k}"] for k in range(CLIPS)]


def test_another_jobs_folder_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path, {"seed": 0, "samples": 5})
    claim_folder(tmp_path, {"seed": 0, "samples": 5})
    with pytest.raises(ValueError, match=r"seed=0, asked 1.*another folder as `out`"):
        claim_folder(tmp_path, {"seed": 1, "samples": 5})
