from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from egovl.data.configs import CLIPBPEConfig, EgoClipConfig, EgoMCQConfig, LoaderConfig
from egovl.data.decode import DecodeError
from egovl.data.loader import LoaderError, TrainLoader, build_eval_loader, build_train_loader
from egovl.data.types import Batch
from tests.egovl.data.numbered_video import write_egoclip, write_egomcq, write_video

NUM_CLIPS = 48


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 8 s and clips of one second, each text its row number."""
    root = tmp_path_factory.mktemp("corpus")
    for k, uid in enumerate("abcd"):
        write_video(root / "videos" / uid / "0.mp4", 240, first_number=1000 * k)
    draw = random.Random(0)
    rows = []
    for i in range(NUM_CLIPS):
        start = round(draw.uniform(0, 6.9), 2)
        rows.append((draw.choice("abcd"), start, start + 1.0, f"row {i}", [i % 118], [i, i + 1]))
    write_egoclip(root / "egoclip.csv", rows)
    write_egomcq(root / "egomcq.json", 7, "abcd")
    return root


def train_loader(root: Path, **options: object) -> TrainLoader:
    keys = ("seed", "rank", "world_size", "start_sample")
    run = {key: options.pop(key) for key in keys if key in options}
    dataset_options = {
        key: options.pop(key) for key in ("neg_window_sec", "annotations") if key in options
    }
    values = {"batch_size": 8, "num_workers": 0, "image_size": 32, "shuffle_window": 16, **options}
    dataset = EgoClipConfig(
        **{
            "annotations": root / "egoclip.csv",
            "video_root": root / "videos",
            **dataset_options,
        }  # type: ignore[arg-type]
    ).build()
    tokenizer = CLIPBPEConfig(context_length=8, vocab_size=600).build()
    defaults = {"seed": 0, "rank": 0, "world_size": 1, "start_sample": 0}
    config = LoaderConfig(**values)  # type: ignore[arg-type]
    return build_train_loader(dataset, config, tokenizer, **{**defaults, **run})  # type: ignore[arg-type]


def take(loader: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.index.tolist() == second.index.tolist()
    assert first.video is not None
    assert second.video is not None
    assert torch.equal(first.video, second.video)
    assert first.tokens is not None
    assert second.tokens is not None
    assert torch.equal(first.tokens, second.tokens)
    assert first.labels.keys() == second.labels.keys()
    assert all(torch.equal(first.labels[k], second.labels[k]) for k in first.labels)


def test_a_batch_has_the_stated_shapes_and_matching_rows(corpus: Path) -> None:
    (batch,) = take(train_loader(corpus), 1)
    assert batch.video is not None
    assert batch.video.shape == (8, 1, 3, 4, 32, 32)
    assert batch.video.dtype == torch.uint8
    assert batch.token_mask is not None
    assert batch.labels["verb"].shape == (8, 118)
    assert batch.labels["noun"].shape == (8, 582)
    tokenizer = CLIPBPEConfig(context_length=8, vocab_size=600).build()
    for row, index in enumerate(batch.index.tolist()):
        assert torch.equal(batch.tokens[row], tokenizer(f"row {index}")[0][0])  # type: ignore[index]
        assert batch.labels["verb"][row].nonzero().flatten().tolist() == [index % 118]
        assert batch.labels["noun"][row].nonzero().flatten().tolist() == [index, index + 1]


def test_the_number_of_processes_changes_nothing(corpus: Path) -> None:
    alone = take(train_loader(corpus, flip_probability=0.5), 8)
    for num_workers in (1, 3):
        loader = train_loader(corpus, num_workers=num_workers, flip_probability=0.5)
        for first, second in zip(alone, take(loader, 8), strict=True):
            assert_equal(first, second)
        loader.close()


def test_resuming_gives_the_batches_of_the_unbroken_run(corpus: Path) -> None:
    unbroken = take(train_loader(corpus), 9)
    for step in (1, 6, 7):
        resumed = take(train_loader(corpus, start_sample=8 * step), 9 - step)
        for first, second in zip(unbroken[step:], resumed, strict=True):
            assert_equal(first, second)


def test_ranks_share_the_global_batches_of_a_single_process(corpus: Path) -> None:
    whole = take(train_loader(corpus), 6)
    parts = [take(train_loader(corpus, rank=r, world_size=4), 6) for r in range(4)]
    for step, batch in enumerate(whole):
        joined = [i for part in parts for i in part[step].index.tolist()]
        assert joined == batch.index.tolist()


def test_a_sample_looks_different_in_every_epoch_and_seed(corpus: Path) -> None:
    def pictures(loader: TrainLoader, steps: int) -> dict[int, torch.Tensor]:
        seen = {}
        for batch in take(loader, steps):
            assert batch.video is not None
            seen.update(zip(batch.index.tolist(), batch.video, strict=True))
        return seen

    first = pictures(train_loader(corpus), 6)
    later = pictures(train_loader(corpus, start_sample=NUM_CLIPS), 6)
    other = pictures(train_loader(corpus, seed=1), 6)
    assert first.keys() == later.keys() == other.keys() == set(range(NUM_CLIPS))
    assert not any(torch.equal(first[i], later[i]) for i in first)
    assert not any(torch.equal(first[i], other[i]) for i in first)


def test_making_a_loader_draws_nothing_from_the_models_random_numbers(corpus: Path) -> None:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    take(train_loader(corpus), 2)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert (np.random.get_state()[1] == state[2]).all()  # type: ignore[index]


def test_scene_aware_negatives_double_the_batch(corpus: Path) -> None:
    plain = take(train_loader(corpus), 3)
    for batch, anchors in zip(
        take(train_loader(corpus, neg_window_sec=4.0), 3), plain, strict=True
    ):
        assert batch.index[:8].tolist() == anchors.index.tolist()
        assert len(batch.index) == 16
        assert batch.video is not None
        assert len(batch.video) == 16
        assert batch.labels["verb"].shape == (16, 118)


def test_sizes_that_do_not_divide_are_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size 8 .* multiple of world_size 3"):
        train_loader(corpus, world_size=3)
    with pytest.raises(ValueError, match="48 samples do not fill one batch of 64"):
        train_loader(corpus, batch_size=64)
    with pytest.raises(ValueError, match="keep the batch_size"):
        train_loader(corpus, start_sample=4)


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with rows of a truncated file and of a missing one."""
    (tmp_path / "videos").symlink_to(corpus / "videos")
    rows = (corpus / "egoclip.csv").read_text().splitlines()
    broken = tmp_path / "broken"
    broken.mkdir()
    for uid in "abcd":
        (broken / uid).symlink_to(corpus / "videos" / uid)
    write_video(broken / "cut" / "0.mp4", 240)
    data = (broken / "cut" / "0.mp4").read_bytes()
    (broken / "cut" / "0.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "videos").unlink()
    broken.rename(tmp_path / "videos")
    for line, uid in ((5, "cut"), (9, "cut"), (20, "missing")):
        cells = rows[line].split("\t")
        rows[line] = "\t".join([cells[0], uid, *cells[2:]])
    (tmp_path / "egoclip.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


BAD_ROWS = {4, 8, 19}


def test_an_unreadable_sample_stops_the_run_by_default(damaged: Path) -> None:
    for num_workers in (0, 1):
        loader = train_loader(damaged, num_workers=num_workers)
        with pytest.raises(DecodeError, match=r"cut/0\.mp4|missing/0\.mp4") as caught:
            take(loader, 6)
        assert caught.value.span is not None
        loader.close()


def test_skipping_replaces_by_the_same_samples_everywhere(
    damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"on_error": "skip", "max_bad_fraction": 0.2}
    loader = train_loader(damaged, **options)
    alone = take(loader, 12)
    seen = {i for batch in alone for i in batch.index.tolist()}
    assert not seen & BAD_ROWS
    assert all(len(batch.index) == 8 for batch in alone)
    assert loader.counters.bad_samples == BAD_ROWS
    assert {path.parent.name for path in loader.counters.bad_files} == {"cut", "missing"}
    assert loader.counters.samples == 96
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warnings) == 2, "each file is named once"
    workers = train_loader(damaged, num_workers=2, **options)
    parts = [take(train_loader(damaged, rank=r, world_size=2, **options), 12) for r in (0, 1)]
    for step, (first, second) in enumerate(zip(alone, take(workers, 12), strict=True)):
        assert_equal(first, second)
        joined = [i for part in parts for i in part[step].index.tolist()]
        assert joined == first.index.tolist()
    workers.close()


def test_too_many_unreadable_samples_stop_the_run(damaged: Path) -> None:
    with pytest.raises(LoaderError, match=r"more than max_bad_fraction 0\.03 of 48; files: .*mp4"):
        take(train_loader(damaged, on_error="skip", max_bad_fraction=0.03), 12)


def eval_batches(root: Path, rank: int, world_size: int, **options: object) -> list[Batch]:
    config = LoaderConfig(
        **{"eval_batch_size": 3, "num_workers": 0, "image_size": 32, **options}  # type: ignore[arg-type]
    )
    dataset = EgoMCQConfig(
        annotations=root / "egomcq.json", video_root=root / "videos", chunk_sec=600
    ).build()
    loader = build_eval_loader(dataset, config, None, rank=rank, world_size=world_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert [b.index.tolist() for b in loader] == [b.index.tolist() for b in batches]
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_gives_each_question_once_over_all_ranks(corpus: Path, world_size: int) -> None:
    batches = [b for r in range(world_size) for b in eval_batches(corpus, r, world_size)]
    assert sorted(i for b in batches for i in b.index.tolist()) == list(range(7))
    for batch in batches:
        assert batch.video is not None
        assert batch.video.shape[1:] == (5, 3, 4, 32, 32)
        assert batch.labels["answer"].tolist() == [i % 5 for i in batch.index.tolist()]
        assert batch.labels["type"].tolist() == [1 + i % 2 for i in batch.index.tolist()]
        assert batch.tokens is None


def test_evaluation_is_the_same_with_processes_and_on_the_float_path(corpus: Path) -> None:
    alone = eval_batches(corpus, 0, 1)
    workers = eval_batches(corpus, 0, 1, num_workers=2)
    exact = eval_batches(corpus, 0, 1, float_pixels=True)
    for first, second, third in zip(alone, workers, exact, strict=True):
        assert first.video is not None
        assert second.video is not None
        assert third.video is not None
        assert torch.equal(first.video, second.video)
        assert third.video.dtype == torch.float32
        assert (first.video.float() - third.video).abs().max() <= 1


def test_evaluation_leaves_unreadable_questions_out_and_counts_them(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    for uid in "abc":
        (tmp_path / "videos" / uid).symlink_to(corpus / "videos" / uid)
    write_egomcq(tmp_path / "egomcq.json", 4, "abcd")  # no video d
    config = EgoMCQConfig(annotations=tmp_path / "egomcq.json", video_root=tmp_path / "videos")
    options = LoaderConfig(
        num_workers=0, image_size=32, on_error="skip", max_bad_fraction=1.0, eval_batch_size=4
    )
    loader = build_eval_loader(config.build(), options, None, rank=0, world_size=1)
    assert list(loader) == []
    assert loader.counters.bad_samples == {0, 1, 2, 3}


def worker_pids() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children]


def test_a_killed_loading_process_is_a_clear_error(corpus: Path) -> None:
    before = set(worker_pids())
    loader = train_loader(corpus, num_workers=1, prefetch=1)
    take(loader, 1)
    (worker,) = set(worker_pids()) - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"died|killed by signal"):
        take(loader, 20)
    loader.close()


def test_loading_processes_survive_the_schedulers_signals(corpus: Path) -> None:
    before = set(worker_pids())
    loader = train_loader(corpus, num_workers=1)
    take(loader, 1)
    (worker,) = set(worker_pids()) - before
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        if number != signal.SIGTERM:
            os.kill(worker, number)
            continue
        # from a stranger, as Slurm sends it; from this process it would end the worker
        assert os.spawnlp(os.P_WAIT, "kill", "kill", "-TERM", str(worker)) == 0
    time.sleep(0.3)
    assert len(take(loader, 8)) == 8
    assert worker in worker_pids()
    os.kill(worker, signal.SIGTERM)
    for _ in range(100):
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the worker ignores its own training process")


def test_a_hanging_file_is_left_out_and_a_hanging_process_is_a_clear_error(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos" / "h").mkdir(parents=True)
    os.mkfifo(tmp_path / "videos" / "h" / "0.mp4")
    (tmp_path / "videos" / "a").symlink_to(corpus / "videos" / "a")
    rows = [("ah"[i == 3], 0.5 * i, 0.5 * i + 1, f"row {i}", [], []) for i in range(8)]
    write_egoclip(tmp_path / "egoclip.csv", rows)
    options = {"num_workers": 1, "batch_size": 4, "on_error": "skip", "max_bad_fraction": 0.5}
    loader = train_loader(tmp_path, decode_timeout_sec=0.5, **options)
    assert 3 not in [i for batch in take(loader, 4) for i in batch.index.tolist()]
    assert loader.counters.bad_samples == {3}
    loader.close()
    stuck = train_loader(tmp_path, decode_timeout_sec=60.0, batch_timeout_sec=2.0, **options)
    with pytest.raises(LoaderError, match="a loading process hangs"):
        take(stuck, 4)
    stuck.close()
