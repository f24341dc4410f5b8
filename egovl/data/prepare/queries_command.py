"""`python -m egovl prepare queries`: Ego4D's json files and EgoClip's narrations as rows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
what it writes into --out:
  ego4d_nlq_train_v2.jsonl, _val_, _test_   a row for each question of nlq_train.json, nlq_val.json,
                                            nlq_test_unannotated.json, those that are there
  ego4d_nlq_train+val_v2.jsonl              both, where both are
  narrations_train.jsonl                    with --egoclip: narrations inside the training clips of
                                            nlq_train.json, moments_train.json, vq_train.json

A question without a text is left out but keeps its number, which the challenge counts with.

examples:
  python -m egovl prepare queries --annotations ego4d/v2/annotations --version v2 --out data/nlq
  python -m egovl prepare queries --annotations ego4d/v2/annotations --egoclip egoclip.csv --out X
"""

SPLITS = {
    "train": "nlq_train.json",
    "val": "nlq_val.json",
    "test": "nlq_test_unannotated.json",
}
NARRATED = ("nlq_train.json", "moments_train.json", "vq_train.json")
NARRATIONS = "narrations_train.jsonl"


def add_arguments(step: argparse.ArgumentParser) -> None:
    """Add what the step takes."""
    step.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="the official json files"
    )
    step.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the rows")
    step.add_argument(
        "--version", choices=("v1", "v2"), default="v2", help="of the files (default v2)"
    )
    step.add_argument("--egoclip", type=Path, metavar="FILE", help="egoclip.csv, for narrations")


def make_queries(args: argparse.Namespace) -> int:
    """Write the rows; return the exit status."""
    from egovl.data.datasets.nlq_narrations import WITHOUT_FEATURES, narration_rows
    from egovl.data.datasets.nlq_rows import QueryRow, query_rows, write_rows
    from egovl.data.datasets.state_change import load_json

    folder, made = args.annotations, {}
    if args.check:
        return 0 if args.no_files or folder.is_dir() else _refuse(f"{folder} is not a folder")
    try:
        rows: dict[str, list[QueryRow]] = {
            split: list(query_rows(load_json(folder / name), with_spans=split != "test"))
            for split, name in SPLITS.items()
            if (folder / name).is_file()
        }
        if not rows:
            return _refuse(f"{folder} has none of {', '.join(SPLITS.values())}")
        if "train" in rows and "val" in rows:
            rows["train+val"] = rows["train"] + rows["val"]
        for split, own in rows.items():
            path = args.out / f"ego4d_nlq_{split}_{args.version}.jsonl"
            made[path] = write_rows(path, own)
        if args.egoclip is not None:
            tasks = [load_json(folder / name) for name in NARRATED if (folder / name).is_file()]
            with args.egoclip.open(newline="", encoding="utf-8") as lines:
                narrations = [
                    row
                    for row in narration_rows(lines, tasks)
                    if row.video_id not in WITHOUT_FEATURES
                ]
            made[args.out / NARRATIONS] = write_rows(args.out / NARRATIONS, narrations)
    except (OSError, ValueError) as error:
        return _refuse(error)
    for path, count in made.items():
        print(f"{path}: {count} rows")
    return 0


def _refuse(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
