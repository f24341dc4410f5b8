"""Small files in EPIC-KITCHENS-100's formats."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

HEADER = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
)

ROWS = [
    # narration id, start, stop, narration, verb class, noun classes
    ("P01_01_0", 0.14, 3.37, "open door", 3, [3]),
    ("P01_01_1", 62.0, 64.5, "take knife and fork", 0, [4, 5]),
    ("P01_01_2", 70.0, 70.5, "open the door", 3, [3]),
    ("P01_01_3", 80.0, 81.0, "take fork", 0, [5]),
]


def write_epic(path: Path, rows: Sequence[tuple] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for identity, start, stop, narration, verb, nouns in rows:
            video = identity.rpartition("_")[0]
            stamps = [f"00:{int(t // 60):02d}:{t % 60:06.3f}" for t in (start, start, stop)]
            frames = [round(start * 50), round(stop * 50)]
            classes = [narration.split()[0], verb, "n", nouns[0], ["n"] * len(nouns), nouns]
            writer.writerow([identity, "P01", video, *stamps, *frames, narration, *classes])
    return path


def write_sentences(path: Path, entries: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("narration_id", "narration"), *entries])
    return path
