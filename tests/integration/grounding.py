"""Acceptance line groundnlq-2: questions in clips of minutes, through the launchers.

Renders the corpus and its clips, trains a tower, extracts features, then for three seeds pretrains
on narrations, finetunes, and trains as many steps from scratch. Prints one table beside the best
that knows lengths and places of the training spans but looks at nothing.

    python -m tests.integration.grounding --cluster testbed   # the real Slurm: make slurm-up
    python -m tests.integration.grounding --executor local    # this machine
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from egovl.data.datasets.nlq_rows import QueryRow, read_rows
from egovl.metrics.spans import score_spans
from tests.integration.demo import ROOT, run, say

SEEDS = (0, 1, 2)
FACTOR = 3.0
METRIC = "nlq/R1_0.5"
NLQ = ROOT / "data/synthetic/nlq"


def prior_recall(train: list[QueryRow], val: list[QueryRow]) -> float:
    """R@1 at IoU 0.5, in percent, of the one window that answers most training questions.

    Windows are lengths in seconds at places relative to the clip's length.
    """
    spans = np.array([row.spans[0] for row in train if row.spans])
    durations = np.array([row.duration_sec for row in train if row.spans])
    best, window = -1.0, (0.0, 0.0)
    for length in np.quantile(spans[:, 1] - spans[:, 0], np.linspace(0.1, 0.9, 9)):
        for place in np.linspace(0, 1, 101):
            found = recall(fixed(durations, length, place), spans)
            if found > best:
                best, window = found, (length, place)
    asked = np.array([row.spans[0] for row in val if row.spans])
    lengths = np.array([row.duration_sec for row in val if row.spans])
    return recall(fixed(lengths, *window), asked)


def fixed(durations: np.ndarray, length: float, place: float) -> np.ndarray:
    """The same window in every clip."""
    start = place * (durations - length)
    return np.stack([start, start + length], axis=1)


def recall(spans: np.ndarray, truth: np.ndarray) -> float:
    counts = np.ones(len(truth), dtype=np.int64)
    found = score_spans(spans[:, None], counts, truth, thresholds=(0.5,), ranks=(1,))
    return 100 * float(found.recall[0, 0])


def newest(kind: str, name: str) -> Path:
    """Run folder of the newest finished run of a name."""
    results = list((ROOT / "runs" / kind).glob(f"{name}-*/result.json"))
    return max(results, key=lambda path: path.stat().st_mtime).parent


def main() -> int:
    """Run everything, print the table, fail where a figure falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", default="slurm", choices=("slurm", "local"))
    parser.add_argument("--cluster", help="profile of configs/clusters")
    parser.add_argument("--tower", type=Path, help="a finished run of debug/demo.yaml to reuse")
    args = parser.parse_args()
    where = ["--executor", "local"] if args.executor == "local" else []
    where += ["--cluster", args.cluster] if args.cluster else []
    where += ["--processes", "1", "--follow"]

    def launch(launcher: str, config: str, name: str, *words: str) -> None:
        recipe = f"configs/debug/{config}.yaml"
        run(f"launchers/{launcher}.py", "--config", recipe, "--name", name, *where, *words)

    run("-m", "egovl", "prepare", "synthetic", "--out", "data/synthetic", "--with", "queries")
    words = ("--annotations", str(NLQ), "--egoclip", str(NLQ / "egoclip.csv"), "--out", str(NLQ))
    run("-m", "egovl", "prepare", "queries", *words)
    if args.tower is None:
        launch("pretrain", "demo", "grounding-tower")
    tower = args.tower or newest("pretrain", "grounding-tower")
    launch("extract_features", "queries_features", "grounding-features", f"init.file={tower}")
    rows: list[tuple[int, float, float]] = []
    started = time.monotonic()
    for seed in SEEDS:
        found: dict[str, float] = {}
        launch("pretrain", "grounding_pretrain", f"grounding-narrations{seed}", f"seed={seed}")
        source = newest("pretrain", f"grounding-narrations{seed}")
        for name, more in (
            ("pretrained", ("init.origin=egovl", f"init.file={source}")),
            ("scratch", ()),
        ):
            launch("pretrain", "grounding", f"grounding-{name}{seed}", f"seed={seed}", *more)
            result = newest("pretrain", f"grounding-{name}{seed}") / "result.json"
            found[name] = json.loads(result.read_text())["metrics"][METRIC]
        rows.append((seed, found["pretrained"], found["scratch"]))
    prior = prior_recall(read_rows(NLQ / "nlq_train.json"), read_rows(NLQ / "nlq_val.json"))
    say("\nR@1 IoU 0.5   narrations first   from scratch")
    for seed, first, scratch in rows:
        say(f"seed {seed}        {first:16.1f}   {scratch:12.1f}")
    means = np.mean([row[1:] for row in rows], axis=0)
    say(f"mean          {means[0]:16.1f}   {means[1]:12.1f}")
    say(f"best window   {prior:16.1f}   ({time.monotonic() - started:.0f} s of training)")
    ok = all(first >= FACTOR * prior for _, first, _ in rows) and means[0] > means[1]
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
