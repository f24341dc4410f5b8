"""``make soak``: the long repetitions on the real Slurm; one table, non-zero exit on any miss.

    python -m tests.slurm.soak                         everything, about an hour
    python -m tests.slurm.soak --part tests
    python -m tests.slurm.soak --part stops --trials 100 --profiles all
    python -m tests.slurm.soak --part claims --races 1000
    python -m tests.slurm.soak --part journey --times 20

tests: every test marked `soak`, among them the full product of the job layer's matrix. journey:
real trainings preempted at random steps under both process trackers, every run compared bit for bit
with an unbroken one. stops: warned stops of the toy trainer under every combination of tracker,
preemption signal, PreemptMode and JobRequeue. claims: those who may continue a run race for it and
are killed. Tests and repetitions run side by side, as most of both is waits of Slurm's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from tests.architecture.source import ROOT
from tests.jobs.claim_race import run_trial
from tests.slurm.client import SlurmClient
from tests.slurm.configuration import PROFILES, TRACKERS, Settings
from tests.slurm.journey import Journey, differences, make_checkout
from tests.slurm.soak_stops import HEADER, soak_stops, summary
from tests.slurm.testbed import bring_up

LANES = (("tests",), ("claims", "stops", "journey"))
PARTS = tuple(part for lane in LANES for part in lane)
PREEMPTIONS_PER_RUN = 5
STEPS = 250
FLAGS = ("--nodes", "2", "--partition", "a100")


def soak_tracker(tracker: str, folder: Path, corpus: Path, times: int, seed: int) -> list[str]:
    """One row of the table per run."""
    draw = random.Random(seed)
    local, _ = bring_up(Settings(folder / tracker, tracker=tracker))
    os.environ["SLURM_CONF"] = str(local.settings.slurm_conf)
    slurm = SlurmClient(local)
    rows: list[str] = []
    try:
        project = make_checkout(
            folder / f"project-{tracker}", corpus, gpus=2, steps=STEPS, save_every=7
        )
        unbroken = Journey.launch(slurm, project, *FLAGS, "--name", "unbroken")
        unbroken.wait_done(600)
        for number in range(-(-times // PREEMPTIONS_PER_RUN)):
            count = min(PREEMPTIONS_PER_RUN, times - number * PREEMPTIONS_PER_RUN)
            steps = sorted(draw.sample(range(3, STEPS - 60), count))
            started = time.monotonic()
            run = Journey.launch(slurm, project, *FLAGS, "--name", f"soak{number}")
            for step in steps:
                run.wait_step(step)
                run.preempt()
            run.wait_done(600)
            lost, unequal = run.repeated_steps(), differences(run, unbroken)
            attempts = len(run.folder.attempt_numbers())
            verdict = "bit-equal" if not unequal else "; ".join(unequal[:3])
            rows.append(
                f"{tracker:10} {steps!s:28} {attempts:8} {lost:10} {verdict:12} "
                f"{time.monotonic() - started:6.0f}"
            )
            print(rows[-1], flush=True)
    finally:
        local.down()
    return rows


def soak_journey(folder: Path, args: argparse.Namespace) -> tuple[list[str], bool]:
    """The journey's part of the table, and whether nothing was missed."""
    rows: list[str] = []
    render_corpus(SyntheticConfig(train_videos=5, eval_videos=5), folder / "corpus")
    for tracker in args.trackers:
        rows += soak_tracker(tracker, folder, folder / "corpus", args.times, args.seed)
    good = [row for row in rows if "bit-equal" in row and int(row.split("]")[1].split()[1]) == 0]
    head = "tracker    preempted at                 attempts steps lost  verdict     seconds"
    return [head, *rows], bool(rows) and len(good) == len(rows)


def soak_warned(folder: Path, args: argparse.Namespace) -> tuple[list[str], bool]:
    """The warned stops' part of the table, and whether nothing was missed."""
    names = [name for name in PROFILES if name not in TRACKERS]
    if args.profiles != ["all"]:
        names = args.profiles
    results = soak_stops(folder, args.trials, names, args.seed)
    rows = [HEADER, *(each.row() for each in results), summary(results)]
    return rows, all(each.is_good for each in results)


def soak_claims(folder: Path, args: argparse.Namespace) -> tuple[list[str], bool]:
    """The claims' part of the table, and whether nothing was missed."""
    wrong: list[str] = []
    for seed in range(args.seed, args.seed + args.races):
        place = folder / str(seed)
        place.mkdir(parents=True)
        if words := run_trial(place, seed):
            wrong.append(words)
            print(words, flush=True)
        shutil.rmtree(place)
    doubled = sum("run at once" in words for words in wrong)
    lost = len(wrong) - doubled
    row = f"{args.races} races with kills: {doubled} double continuations, {lost} lost ones"
    return [row], not wrong


def soak_tests(folder: Path, _: argparse.Namespace) -> tuple[list[str], bool]:
    """The marked tests' part of the table, a row per file, and whether none failed."""
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "tests.xml"
    words = [sys.executable, "-m", "pytest", "-m", "soak", "-q", f"--junitxml={report}"]
    words += ["-n", "2", "--dist", "loadfile"]  # most of it is waits of Slurm's
    status = subprocess.run(words, cwd=ROOT, check=False).returncode
    if not report.exists():
        return [f"pytest ended with {status} and left no report"], False
    counts: dict[str, Counter[str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        count = counts.setdefault(case.get("classname", ""), Counter())
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        count.update(kinds or {"passed"})
        count["seconds"] += round(float(case.get("time", "0")))
    head = f"{'tests':58} passed failed skipped seconds"
    rows = [
        f"{name:58} {each['passed']:6} {each['failure'] + each['error']:6} {each['skipped']:7} "
        f"{each['seconds']:7}"
        for name, each in counts.items()
    ]
    return [head, *rows], status == 0 and bool(rows)


def main() -> int:
    """Soak the parts asked for; fails where a step was lost, a cause wrong or a bit differs."""
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--times", type=int, default=20, help="journey: preemptions per tracker")
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=list(TRACKERS))
    parser.add_argument("--trials", type=int, default=100, help="stops: in all")
    parser.add_argument("--profiles", nargs="+", choices=("all", *PROFILES), default=["all"])
    parser.add_argument("--races", type=int, default=1000, help="claims: how many")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--table", type=Path, metavar="FILE", help="some parts: table to there")
    args = parser.parse_args()
    lanes = [[part for part in lane if part in args.part] for lane in LANES]
    if all(lanes):
        return soak_side_by_side(lanes)
    table, is_good = soak_parts(args)
    if args.table is None:
        print("\n".join(table))
    else:
        args.table.write_text("\n".join(table))
    return 0 if is_good else 1


def soak_side_by_side(lanes: list[list[str]]) -> int:
    """Every lane in a process of its own, with the other words as given; then all their tables."""
    with tempfile.TemporaryDirectory() as folder:
        tables = [Path(folder) / f"{number}.txt" for number in range(len(lanes))]
        words = (sys.executable, "-m", "tests.slurm.soak", *sys.argv[1:])
        started = [
            subprocess.Popen([*words, "--part", *lane, "--table", str(table)], cwd=ROOT)
            for lane, table in zip(lanes, tables, strict=True)
        ]
        try:
            statuses = [each.wait() for each in started]
        finally:
            for each in started:
                each.terminate()
        print("\n" + "\n".join(table.read_text() for table in tables if table.exists()))
    return max(map(abs, statuses))


def soak_parts(args: argparse.Namespace) -> tuple[list[str], bool]:
    """The table of the parts asked for, one after the other, and whether nothing was missed."""
    parts = {
        "tests": soak_tests,
        "claims": soak_claims,
        "stops": soak_warned,
        "journey": soak_journey,
    }
    table: list[str] = []
    is_good = True
    for name, soak in parts.items():
        if name not in args.part:
            continue
        # its name tells the tests' clean-up which process it belongs to
        folder = Path(tempfile.mkdtemp(prefix=f"egovl-slurm-{os.getpid()}-"))
        started = time.monotonic()
        try:
            rows, is_part_good = soak(folder, args)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        verdict = "all as it has to be" if is_part_good else "MISSED"
        table += ["", f"{name}: {verdict}, {time.monotonic() - started:.0f} s", *rows]
        is_good = is_good and is_part_good
    return table, is_good


if __name__ == "__main__":
    sys.exit(main())
