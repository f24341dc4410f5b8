"""Annotations of 0.4, 4 and 40 million generated rows: 7 minutes and 8 GB of disk.

EGOVL_BENCH_ROWS="0.4e6 4e6" leaves the largest out.

For each size: the conversion, done once; then, in a fresh process as a run would be, the time to
the first batch of sample indices with their clips and texts, the memory that a loading process has
of its own, and a same-video negative look-up, against the scan of the whole column it replaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.data.configs import EgoClipConfig
from egovl.data.datasets.egoclip_table import COLUMNS
from tests.architecture.source import ROOT

ROWS = [int(float(n)) for n in os.environ.get("EGOVL_BENCH_ROWS", "0.4e6 4e6 40e6").split()]
ROWS_PER_VIDEO = 400
BATCH, LOOKUPS = 512, 200

PROBE = """
import json, os, random, sys, time
from pathlib import Path
from egovl.data.configs import EgoClipConfig
from egovl.data.order import global_batches, sample_order

def own_mib():  # pages of no file; mapped ones are the system's cache, shared, given back at need
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text()
                  .splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) / 1024

folder, batch, lookups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
import egovl.data.datasets.egoclip
before, start = own_mib(), time.perf_counter()
dataset = EgoClipConfig(annotations=folder / "egoclip.csv", video_root=folder, neg_window_sec=60.0,
                        cache_folder=folder / "cache").build()
order = sample_order(dataset, seed=0, clips_per_chunk=8, shuffle_window=2048)
_, rows = next(global_batches(order, start_sample=batch * 100, batch_size=batch))
samples = [dataset[int(row)] for row in rows]
first_batch = time.perf_counter() - start
anywhere = random.Random(0)
asked = [anywhere.randrange(len(dataset)) for _ in range(lookups)]
start = time.perf_counter()
for row in asked:
    dataset.negative_pool(row)
lookup = (time.perf_counter() - start) / lookups
# a loading process is forked: what it writes becomes its own
read, write = os.pipe()
if os.fork() == 0:
    mine = own_mib()
    for row in asked:
        dataset[row], dataset.partner(row, anywhere.randint)
    os.write(write, str(own_mib() - mine).encode())
    os._exit(0)
worker = float(os.read(read, 100))
print(json.dumps({"first_batch_ms": 1e3 * first_batch, "lookup_us": 1e6 * lookup,
                  "main_mib": own_mib() - before, "worker_mib": worker}))
"""


def lines(count: int) -> Iterator[str]:
    draw = Random(0)
    for row in range(count):
        video, place = divmod(row, ROWS_PER_VIDEO)
        start = round(place * 4.5 + draw.random(), 3)
        yield (
            f"{row}\tvideo-{video:07d}\t3000.0\tnarration_pass_1\t{place}\t{start + 0.5}\t{start}\t"
            f"{start + 1.0}\t#C C does thing {row % 977}\t[{row % 118}]\t[{row % 582}]\n"
        )


@pytest.mark.parametrize("count", ROWS)
def test_time_and_memory_of_annotations_stay_flat(
    benchmark: BenchmarkFixture, tmp_path: Path, count: int
) -> None:
    path = tmp_path / "egoclip.csv"
    with path.open("w") as file:
        file.write("\t".join(COLUMNS) + "\n")
        file.writelines(lines(count))
    start = time.perf_counter()
    config = EgoClipConfig(
        annotations=path, video_root=tmp_path, neg_window_sec=60.0, cache_folder=tmp_path / "cache"
    )
    dataset = config.build()
    converted_sec = time.perf_counter() - start
    found = probe(tmp_path)
    scan_ms = scanned(dataset._table.video, dataset._table.time_sec)
    print(
        f"\n{count / 1e6:g} M rows: converted once in {converted_sec:.1f} s; first batch "
        f"{found['first_batch_ms']:.0f} ms; own memory {found['main_mib']:.1f} MiB in the training "
        f"process, {found['worker_mib']:.1f} MiB in a loading process; negative look-up "
        f"{found['lookup_us']:.0f} us, a scan of the columns {1e3 * scan_ms:.0f} us"
    )
    benchmark.pedantic(lambda: dataset.negative_pool(count // 2), rounds=50)


def probe(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, str(folder), str(BATCH), str(LOOKUPS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scanned(video: object, time_sec: object) -> float:
    """Milliseconds of the straightforward way: compare every row's video and window."""
    start = time.perf_counter()
    assert ((video == video[7]) & (time_sec // 60 == time_sec[7] // 60)).any()  # type: ignore[index,operator]
    return 1e3 * (time.perf_counter() - start)
