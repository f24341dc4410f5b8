"""Charades-Ego's csv to EgoVLP's training table: one row per action (EgoVLP spec 3.10)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from egovl.data.datasets.charades_ego import load_videos
from egovl.data.label_space import read_lines

HEADER = ("id", "cls", "t_start", "t_end", "narration")


def write_metadata(annotations: Path, classes: Path, out: Path) -> int:
    """Write the actions of a released csv as a tab separated table; return how many.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A row that cannot be read, or a class the list lacks.
    """
    # the whole line behind the code, commas included
    texts = {line.split(" ", 1)[0]: line.split(" ", 1)[-1] for line in read_lines(classes)}
    numbers = {code: number for number, code in enumerate(texts)}
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(HEADER)
        for video in load_videos(annotations):
            for action in video.actions:
                if action.code not in texts:
                    raise ValueError(f"{annotations}, {video.video_id}: no class {action.code!r}")
                seconds = action.start_sec, action.end_sec
                row = (video.video_id, numbers[action.code], *seconds, texts[action.code])
                writer.writerow(row)
                count += 1
    unfinished.replace(out)
    return count
