"""Acceptance line egoinstructor-4: actions are found across views, and what is found helps.

On the rendered corpus: a retriever, whose R@1 from ego to exo clips must be ten times chance; the
supports that it finds for every ego clip; the captioner with them and without, three seeds, judged
by CIDEr on held-out clips; and both recipes on the real Slurm, preempted once, bit-equal.
What is finished in runs/supports is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.integration.demo import ROOT, run, say

VIEWS = ROOT / "data/synthetic/views"
RUNS = ROOT / "runs/supports"
SEEDS = (0, 1, 2)


def metrics_of(folder: Path) -> dict[str, float]:
    """Of a finished run."""
    return json.loads((folder / "result.json").read_text())["metrics"]


def train(recipe: str, name: str, *overrides: str) -> Path:
    """Train a debug recipe, or go on with it; returns its run folder."""
    folder = RUNS / name
    if not (folder / "result.json").exists():
        config = f"configs/debug/{recipe}.yaml"
        run("-m", "egovl", "train", "--config", config, "--run-dir", str(folder), *overrides)
    return folder


def retrieve(retriever: Path, split: str) -> Path:
    """Supports of a split's ego clips, found by the retriever; the folder of the two files."""
    out = RUNS / f"{retriever.name}-{split}"
    if (out / "SYN_config.json").exists():
        return out
    places = (f"supports.ego={VIEWS / f'ego_{split}.json'}", f"supports.out={out}")
    words = ("--config", "configs/debug/supports.yaml", "--checkpoint", str(retriever), *places)
    name = f"{retriever.name}-{split}"
    run("launchers/retrieve.py", *words, "--name", name, "--executor", "local", "--follow")
    return out


def same_action(supports: Path) -> float:
    """Percent of the nearest supports that show the verb and the noun of their ego clip."""
    records = json.loads((supports / "SYN_instructions.json").read_text())["data"]
    found = json.loads((supports / "SYN_config.json").read_text())
    # spoken sentences end with what the narration says behind its mark
    told = [records[key]["answer"].removeprefix("#C C ") for key in found]
    hits = [
        records[first]["answer"].endswith(text)
        for (first, *_), text in zip(found.values(), told, strict=True)
    ]
    return 100 * sum(hits) / len(hits)


def caption(retriever: Path, seed: int, with_supports: bool, steps: int | None) -> float:
    """Held-out CIDEr of a captioner."""
    words = [f"seed={seed}"] + ([] if steps is None else [f"trainer.steps={steps}"])
    for place, split in (("train.dataset", "train"), ("evaluate.held_out.dataset", "val")):
        out = RUNS / f"{retriever.name}-{split}"
        words += [
            f"{place}.instructions={out / 'SYN_instructions.json'}",
            f"{place}.supports={out / 'SYN_config.json'}",
            f"{place}.with_supports={str(with_supports).lower()}",
        ]
    kind = "with" if with_supports else "without"
    name = f"captioner-{kind}-{seed}" + ("" if steps is None else f"-{steps}")
    return metrics_of(train("captioning", name, *words))["held_out/CIDEr"]


def main() -> int:
    """Run, print, and fail where a figure falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of a captioner (default: the recipe's)")
    parser.add_argument("--no-slurm", action="store_true", help="leave the real Slurm out")
    args = parser.parse_args()
    run("-m", "egovl", "prepare", "synthetic", "--out", "data/synthetic")
    pairs = json.loads((VIEWS / "charades_video_retrieval.json").read_text())
    chance = 100 / len(pairs)
    rows, ok = [], True
    for seed in SEEDS:
        retriever = train("view_retrieval", f"retriever-{seed}", f"seed={seed}")
        found = metrics_of(retriever)["charades_ego/e2x_R1"]
        shares = [same_action(retrieve(retriever, split)) for split in ("train", "val")]
        cider = [caption(retriever, seed, kind, args.steps) for kind in (True, False)]
        ok &= found >= 10 * chance and cider[0] > cider[1]
        rows.append((seed, found, *shares, *cider))
    say(f"\nchance of R@1: {chance:.1f} %; supports: % of the nearest that show the same action")
    say("seed  R@1 %  supports train, held out  CIDEr with  without supports")
    for seed, *figures in rows:
        say("{:4d} {:6.1f} {:15.1f} {:9.1f} {:11.2f} {:17.2f}".format(seed, *figures))
    if not args.no_slurm:
        run("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/slurm/test_views.py")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
