"""Acceptance line dual-4: the dual encoders' whole day on the rendered corpus and the real Slurm.

    python -m tests.slurm.dual --corpus data/synthetic

Pretrains with InfoNCE and with EgoNCE, finetunes retrieval, classification and state changes from
the first of them, runs the suite of zero-shot benchmarks, all through the launchers, and prints
`collect_results` and one table: every metric beside what guessing gives. Where chance is known a
metric has to be twice that; of two possible answers (OSCC) the error has to be half of chance's.
About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egovl.data.datasets.configs import CharadesEgoConfig, EpicRetrievalConfig
from egovl.data.datasets.epic_rows import NUM_NOUNS, NUM_VERBS
from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from egovl.metrics.classification import label_precision
from egovl.metrics.retrieval import class_relevancy, mir_metrics
from jobs.run_folder import RunFolder
from jobs.standing import FINAL
from tests.conftest import copy_project
from tests.slurm.configuration import Settings
from tests.slurm.testbed import bring_up

PROFILE = """\
executor: slurm
gpus_per_node: 1
cpus_per_gpu: 1
memory_per_gpu_gb: 2
time_limit: 2h
partition: a100
"""


@dataclass(frozen=True)
class Expected:
    """A metric of a stage, and what guessing gives."""

    stage: str
    metric: str
    chance: float

    def holds(self, value: float) -> bool:
        """Twice chance; of a question with two answers, half its error."""
        if self.chance >= 50:
            return 100 - value <= (100 - self.chance) / 2
        return value >= 2 * self.chance

    @property
    def target(self) -> str:
        """What it has to reach."""
        return f">= {100 - (100 - self.chance) / 2 if self.chance >= 50 else 2 * self.chance:.1f}"


@dataclass(frozen=True)
class Stage:
    """One launch: its launcher's words, after the runs it starts from."""

    name: str
    words: tuple[str, ...]
    after: str | None = None


STAGES = (
    Stage("info_nce", ("pretrain.py", "--config", "configs/debug/benchmarks.yaml")),
    Stage(
        "ego_nce",
        (
            *("pretrain.py", "--config", "configs/debug/demo.yaml"),
            *("train.task.loss={name: ego_nce}", "trainer.steps=300", "trainer.eval_every=300"),
        ),
    ),
    Stage(
        "retrieval",
        ("finetune.py", "--config", "configs/debug/finetune_retrieval.yaml"),
        after="info_nce",
    ),
    Stage(
        "classification",
        ("finetune.py", "--config", "configs/debug/classify.yaml"),
        after="info_nce",
    ),
    Stage("oscc", ("finetune.py", "--config", "configs/debug/oscc.yaml"), after="info_nce"),
    Stage("pnr", ("finetune.py", "--config", "configs/debug/pnr.yaml"), after="info_nce"),
)
SUITE = "zero_shot_debug"


def expectations(corpus: Path) -> list[Expected]:
    """What every benchmark's metric is compared with."""
    chance = json.loads((corpus / "corpus.json").read_text())["chance_percent"]
    action = chance["ek100_action"]
    return [
        Expected("info_nce", "egomcq/inter_video", 20.0),
        Expected("info_nce", "egomcq/intra_video", 20.0),
        Expected("info_nce", "webvid/t2v_R10", guessed_recall(corpus, "webvid", 10)),
        Expected("info_nce", "cc3m/t2v_R10", guessed_recall(corpus, "cc3m", 10)),
        Expected("ego_nce", "egomcq/inter_video", 20.0),
        Expected("ego_nce", "egomcq/intra_video", 20.0),
        Expected(SUITE, "ek100_cls/top1", action),
        Expected(SUITE, "ek100_cls/top5", 5 * action),
        Expected(SUITE, "egtea/top1", chance["egtea"]),
        Expected(SUITE, "egtea/mean_class", chance["egtea"]),
        Expected(SUITE, "charades_ego/mAP", guessed_charades(corpus)),
        Expected(SUITE, "ek100_mir/mAP", guessed_mir(corpus)),
        Expected(SUITE, "egomcq/inter_video", 20.0),
        Expected(SUITE, "egomcq/intra_video", 20.0),
        Expected("retrieval", "ek100_mir/mAP", guessed_mir(corpus)),
        Expected("classification", "ek100_cls/verb_top1", chance["ek100_verb"]),
        Expected("classification", "ek100_cls/noun_top1", chance["ek100_noun"]),
        Expected("classification", "ek100_cls/action_top1", action),
        Expected("oscc", "oscc/accuracy", chance["oscc"]),
        Expected("pnr", "pnr/accuracy", 100 / 16),
    ]


def guessed_mir(corpus: Path) -> float:
    """mAP of random scores on the test split."""
    folder = corpus / "ek100"
    dataset = EpicRetrievalConfig(
        annotations=folder / "EPIC_100_retrieval_test.csv",
        sentences=folder / "EPIC_100_retrieval_test_sentence.csv",
        video_root=folder / "videos",
    ).build()
    samples = [dataset[k] for k in range(len(dataset))]
    verbs, nouns = np.zeros((len(samples), NUM_VERBS)), np.zeros((len(samples), NUM_NOUNS))
    for row, sample in enumerate(samples):
        verbs[row, list(sample.labels["verb"])] = 1  # type: ignore[arg-type]
        nouns[row, list(sample.labels["noun"])] = 1  # type: ignore[arg-type]
    columns = dataset.sentence_rows
    relevancy = class_relevancy(verbs, nouns, columns)
    scores = np.random.default_rng(0).random(relevancy.shape)
    return mir_metrics(scores, relevancy)["mAP"]


def guessed_charades(corpus: Path) -> float:
    """mAP of random scores on the test split."""
    folder = corpus / "charades_ego"
    dataset = CharadesEgoConfig(
        annotations=folder / "CharadesEgo_v1_test_only1st.csv",
        classes=folder / "Charades_v1_classes.txt",
        video_root=folder / "videos",
    ).build()
    targets = np.zeros((len(dataset), dataset.num_classes["action"]))
    for row in range(len(dataset)):
        targets[row, list(dataset[row].labels["action"])] = 1  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    draws = [label_precision(generator.random(targets.shape), targets).mean() for _ in range(5)]
    return 100 * float(np.mean(draws))


def guessed_recall(corpus: Path, name: str, rank: int) -> float:
    """Recall at a rank of a random order of the captioned files."""
    rows = (corpus / f"captions/{name}_validation.csv").read_text().splitlines()[1:]
    return 100 * rank / len(rows)


class Day:
    """A checkout on a running Slurm, and the runs that were launched from it."""

    def __init__(self, project: Path, overrides: list[str]) -> None:
        self.project = project
        self.overrides = overrides
        self.runs: dict[str, Path] = {}

    def launcher(self, *words: str) -> str:
        """Run a launcher as a user would; ends the script when it fails."""
        print(f"$ python launchers/{' '.join(words)}", flush=True)
        done = subprocess.run(
            [sys.executable, f"launchers/{words[0]}", *words[1:]],
            cwd=self.project,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        return done.stdout

    def launch(self, stage: Stage) -> None:
        """Queue a stage, and remember its run folder."""
        words = [*stage.words, "--name", stage.name, *self.overrides]
        if stage.after is not None:
            words += ["--checkpoint", str(self.runs[stage.after])]
        shown = self.launcher(*words)
        [line] = [line for line in shown.splitlines() if line.startswith("run folder")]
        self.runs[stage.name] = Path(line.split(maxsplit=2)[2])

    def wait(self, *names: str) -> None:
        """Wait for stages to be done."""
        for name in names:
            run, started = RunFolder(self.runs[name]), time.monotonic()
            while run.read_state().get("state") not in FINAL:
                time.sleep(1)
            if run.read_state()["state"] != "done":
                raise SystemExit(f"{name}: {run.read_state()}; see {run.path}")
            print(f"{name}: done, {time.monotonic() - started:.0f} s waited", flush=True)

    def metrics(self, name: str) -> dict[str, float]:
        """Results of a stage, or of the suite's runs together."""
        if name != SUITE:
            return json.loads((self.runs[name] / "result.json").read_text())["metrics"]
        files = (self.project / "runs/evaluate").glob(f"{SUITE}.*/result.json")
        return {k: v for file in files for k, v in json.loads(file.read_text())["metrics"].items()}


def run_day(day: Day) -> None:
    """Launch everything; what starts from the same run stands in the queue together."""
    first = [stage for stage in STAGES if stage.after is None]
    for stage in first:
        day.launch(stage)
    day.wait(*(stage.name for stage in first))
    checkpoint = str(day.runs["info_nce"])
    suite = day.launcher("evaluate.py", "--suite", SUITE, "--checkpoint", checkpoint, "--follow")
    print(suite)
    for stage in STAGES:
        if stage.after is not None:
            day.launch(stage)
    day.wait(*(stage.name for stage in STAGES if stage.after is not None))
    print(day.launcher("collect_results.py", "--pivot", "--no-html"))


def report(day: Day, expected: list[Expected]) -> bool:
    """Print every metric beside what it has to reach; returns whether all do."""
    print(f"{'stage':16}{'metric':26}{'chance':>9}{'target':>10}{'found':>9}")
    ok = True
    for each in expected:
        value = day.metrics(each.stage)[each.metric]
        holds = each.holds(value)
        ok &= holds
        chance, found = f"{each.chance:.1f}", f"{value:.1f}"
        mark = "" if holds else "   MISSED"
        print(f"{each.stage:16}{each.metric:26}{chance:>9}{each.target:>10}{found:>9}{mark}")
    return ok


def show_day(folder: Path, corpus: Path, steps: int | None = None) -> bool:
    """Run the day in a checkout below a folder, on the Slurm that answers; True if all is well."""
    project = copy_project(folder / "project", corpus)
    for profile in (project / "configs/clusters").glob("example*.yaml"):
        profile.unlink()
    (project / "configs/clusters/testbed.yaml").write_text(PROFILE)
    few = [f"trainer.steps={steps}", "optim.warmup_steps=1"]
    day = Day(project, few if steps else [])
    run_day(day)
    return report(day, expectations(corpus))


def main() -> int:
    """Corpus, Slurm, the day, the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.dual", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="a rendered one (default: render it)")
    parser.add_argument("--folder", type=Path, help="work here, and leave it (default: temporary)")
    text = "of every training, to try this script; nothing is learned in a few"
    parser.add_argument("--steps", type=int, help=text)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egovl-dual-") as scratch:
        folder = args.folder or Path(scratch)
        corpus = args.corpus.resolve() if args.corpus else folder / "synthetic"
        if not args.corpus:
            render_corpus(SyntheticConfig(), corpus, workers=2)
        local, _ = bring_up(Settings(folder / "slurm"))
        os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
        try:
            return 0 if show_day(folder, corpus, args.steps) else 1
        finally:
            local.down()


if __name__ == "__main__":
    sys.exit(main())
