"""Acceptance line groundnlq-2: questions in clips of minutes, through the launchers.

Renders the corpus and its clips, then launches one pipeline: a tower, features, and for each of
three seeds narration pretraining, finetuning after it, and as many steps from scratch. Prints one
table beside the best that knows lengths and places of the training spans but looks at nothing.

    python -m tests.integration.grounding                     # on a Slurm that comes and goes
    python -m tests.integration.grounding --executor local    # on this machine without one
    python -m tests.integration.grounding --features runs/extract/NAME    # made by an earlier run

The Slurm has one node with two fake GPUs, so two runs are at work at a time. Called again after it
was broken off it goes on: stages that are done stay, as long as the code is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from egovl.data.datasets.nlq_rows import QueryRow, read_rows
from egovl.metrics.spans import score_spans
from tests.integration.demo import ROOT, run, say
from tests.slurm.configuration import Settings
from tests.slurm.testbed import bring_up

SEEDS = (0, 1, 2)
FACTOR = 3.0
METRIC = "nlq/R1_0.5"
CORPUS = Path("data/synthetic")
NLQ = CORPUS / "nlq"
NAME = "groundnlq-2"
SLURM_WORDS = ("--executor", "slurm", "--partition", "a100", "--gpus", "1", "--cpus", "1")
SLURM_WORDS += ("--memory", "2G", "--time", "4h")
LOCAL_WORDS = ("--executor", "local", "--processes", "1")


def of_seeds(
    shipped: dict[str, Any], seeds: Sequence[int], features: Path | None = None
) -> dict[str, Any]:
    """The shipped pipeline up to its finetuning, for several seeds on one tower.

    Args:
        shipped: stages by name, as `configs/pipelines/grounding.yaml` has them.
        seeds: stages `pretrain`, `finetune` and `scratch` are made of each; the last is finetuning
            that starts from nothing.
        features: the run of a features stage to take instead of making one.
    """
    stages = {name: shipped[name] for name in ("tower", "features")}
    for seed in seeds:
        for name in ("pretrain", "finetune"):
            words = [
                word.replace("${pretrain.run}", f"${{pretrain{seed}.run}}")
                for word in shipped[name]["overrides"]
            ]
            stages[f"{name}{seed}"] = shipped[name] | {"overrides": [*words, f"seed={seed}"]}
        fresh = [w for w in stages[f"finetune{seed}"]["overrides"] if not w.startswith("init.")]
        stages[f"scratch{seed}"] = shipped["finetune"] | {"overrides": fresh}
    if features is None:
        return stages
    del stages["tower"], stages["features"]
    for stage in stages.values():
        words = [word for word in stage["overrides"] if "${tower.run}" not in word]
        stage["overrides"] = [word.replace("${features.run}", str(features)) for word in words]
    return stages


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
    """R@1 at IoU 0.5, in percent, of one span a question."""
    counts = np.ones(len(truth), dtype=np.int64)
    found = score_spans(spans[:, None], counts, truth, thresholds=(0.5,), ranks=(1,))
    return 100 * float(found.recall[0, 0])


@contextlib.contextmanager
def own_slurm() -> Iterator[None]:
    """A Slurm of one node with two fake GPUs, which the launchers find; gone at the end."""
    # its name tells the tests' clean-up which process it belongs to
    folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
    local = None
    try:
        local, _ = bring_up(Settings(folder / "slurm", num_nodes=1))
        os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
        yield
    finally:
        if local is not None:
            local.down()
        shutil.rmtree(folder, ignore_errors=True)


def prepare() -> None:
    """Corpus, clips of minutes, rows; what is there stays."""
    run("-m", "egovl", "prepare", "synthetic", "--out", str(CORPUS), "--with", "queries")
    words = ("--annotations", str(NLQ), "--egoclip", str(NLQ / "egoclip.csv"), "--out", str(NLQ))
    run("-m", "egovl", "prepare", "queries", *words)


def launch(executor: str, features: Path | None) -> None:
    """Run the pipeline of all seeds to its end; ends the script where a stage fails."""
    shipped = yaml.safe_load((ROOT / "configs/pipelines/grounding.yaml").read_text())["stages"]
    stages = of_seeds(shipped, SEEDS, features)
    file = ROOT / "build" / f"{NAME}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({"name": NAME, "stages": stages}, sort_keys=False))
    words = ("--config", str(file), "--follow")
    if features is None:
        words += ("tower.evaluate={}",)
    if executor == "local":
        return run("launchers/pipeline.py", *words, *LOCAL_WORDS)
    with own_slurm():
        return run("launchers/pipeline.py", *words, *SLURM_WORDS)


def found_by_stage() -> dict[str, float]:
    """R@1 of every finetuned run of the latest launch, in percent."""
    record = json.loads((ROOT / f"runs/.pipelines/{NAME}.json").read_text())
    results = {each["name"]: Path(each["run"]) / "result.json" for each in record["stages"]}
    names = [f"{kind}{seed}" for kind in ("finetune", "scratch") for seed in SEEDS]
    return {name: json.loads(results[name].read_text())["metrics"][METRIC] for name in names}


def main() -> int:
    """Run everything, print the table, fail where a figure falls short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executor", default="slurm", choices=("slurm", "local"))
    parser.add_argument("--features", type=Path, metavar="RUN", help="take these, make none")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Slurm ends with us
    started = time.monotonic()
    prepare()
    launch(args.executor, args.features.resolve() if args.features else None)
    found = found_by_stage()
    prior = prior_recall(
        read_rows(ROOT / NLQ / "nlq_train.json"), read_rows(ROOT / NLQ / "nlq_val.json")
    )
    rows = [(found[f"finetune{seed}"], found[f"scratch{seed}"]) for seed in SEEDS]
    means = np.mean(rows, axis=0)
    say("\nR@1 IoU 0.5   narrations first   from scratch")
    for seed, (first, scratch) in zip(SEEDS, rows, strict=True):
        say(f"seed {seed}        {first:16.1f}   {scratch:12.1f}")
    say(f"mean          {means[0]:16.1f}   {means[1]:12.1f}")
    say(f"best window   {prior:16.1f}   (needed: {FACTOR:g} times, {FACTOR * prior:.1f})")
    say(f"{time.monotonic() - started:.0f} s in all")
    ok = all(first >= FACTOR * prior for first, _ in rows) and means[0] > means[1]
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
