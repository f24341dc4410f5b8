"""EK-100 MIR on the real annotations, against mAP and nDCG that each sort everything themselves.

The baseline is the benchmark's formula: for each metric and direction one full argsort and every
matrix re-ordered by it. Same threads, same types, random and planted embeddings.
"""

from __future__ import annotations

import ast
import csv
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from egovl.metrics.retrieval import class_relevancy, mir_metrics
from tests.bench.ratio import report_ratio
from tests.real_data import EK100

NUM_VERBS, NUM_NOUNS = 97, 300


@pytest.fixture(scope="module")
def relevancy() -> np.ndarray:
    """Built from the real annotations, 9,668 x 3,842."""
    rows = read(EK100 / "EPIC_100_validation.csv")
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row["narration_id"], place)
    sentences = read(EK100 / "EPIC_100_retrieval_test_sentence.csv")
    columns = np.array([first[row["narration_id"]] for row in sentences])
    nouns = np.zeros((len(rows), NUM_NOUNS), dtype=np.float32)
    for place, row in enumerate(rows):
        nouns[place, ast.literal_eval(row["all_noun_classes"])] = 1
    verbs = np.eye(NUM_VERBS)[[int(row["verb_class"]) for row in rows]]
    return class_relevancy(verbs, nouns, columns)


def read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        pytest.skip(f"no real annotations: {path} is not there")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def similarity(relevancy: np.ndarray, kind: str) -> np.ndarray:
    """Of random embeddings, or of ones that know something of the relevancy."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(relevancy.shape, dtype=np.float32)
    return noise if kind == "random" else noise + 2 * relevancy.astype(np.float32)


def each_sorts_for_itself(sim: np.ndarray, rel: np.ndarray) -> dict[str, float]:
    found = {}
    for way, s, r in (("v2t", sim, rel), ("t2v", sim.T, rel.T)):
        found[f"mAP_{way}"] = 100 * mean_average_precision(s, r)
        found[f"nDCG_{way}"] = 100 * mean_ndcg(s, r)
    return found


def mean_average_precision(sim: np.ndarray, rel: np.ndarray) -> float:
    ranked = np.take_along_axis(rel, np.argsort(-sim, axis=1), axis=1)
    gained = np.cumsum(ranked, axis=1)
    gained[ranked != 1] = 0
    places = np.arange(rel.shape[1]) + 1
    return float(((gained / places).sum(axis=1) / (ranked == 1).sum(axis=1)).mean())


def mean_ndcg(sim: np.ndarray, rel: np.ndarray) -> float:
    counted = np.arange(rel.shape[1]) < (rel > 0).sum(axis=1)[:, None]
    return float((gains(sim, rel, counted) / gains(rel, rel, counted)).mean())


def gains(sim: np.ndarray, rel: np.ndarray, counted: np.ndarray) -> np.ndarray:
    ranked = np.take_along_axis(rel, np.argsort(sim, axis=1)[:, ::-1], axis=1)
    return (ranked * counted / np.log2(np.arange(rel.shape[1]) + 2)).sum(axis=1)


def peak_mib(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


@pytest.mark.parametrize("kind", ["random", "planted"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mir_metrics_against_full_sorts(
    benchmark: BenchmarkFixture, relevancy: np.ndarray, kind: str, dtype: str
) -> None:
    sim = similarity(relevancy, kind)
    if dtype == "float64":  # numbers that float32 does not hold
        sim = sim * (1 + 1e-12 * np.random.default_rng(1).random(sim.shape))

    def ours() -> dict[str, float]:
        return mir_metrics(sim, relevancy)

    def baseline() -> dict[str, float]:
        return each_sorts_for_itself(sim, relevancy)

    memory = [peak_mib(ours), peak_mib(baseline)]
    print(f"\npeak memory: ours {memory[0]:.0f} MiB, baseline {memory[1]:.0f} MiB")
    report_ratio(f"EK-100 MIR, {kind} embeddings, {dtype}", ours, baseline, rounds=3)
    mine, theirs = ours(), each_sorts_for_itself(sim.astype(np.float64), relevancy)
    for name, value in theirs.items():
        # equal float32 scores stand in an order of numpy's own in the baseline
        assert abs(mine[name] - value) < 1e-6 * max(1, abs(value)), name
    benchmark.pedantic(ours, rounds=1)
