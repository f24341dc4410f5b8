"""Long-term anticipation of Ego4D: which actions follow those seen (HierVL spec 6.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.data.datasets.long_video_configs import AnticipationConfig
from egovl.data.types import ClipRef, Sample, Span


@dataclass(frozen=True, slots=True)
class Action:
    """One labelled action, seconds of the whole video."""

    video_uid: str
    start_sec: float
    end_sec: float
    verb: int
    noun: int


class Anticipation:
    """Observed actions as clips in order; labels ``verb`` and ``noun`` of those that follow.

    A sample is a place between two actions of an annotated clip, with enough actions behind it.

    Raises:
        FileNotFoundError: The actions or the video folder are missing.
        ValueError: A broken entry, or no place with enough actions.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: AnticipationConfig) -> None:
        config.check_root()
        self._config = config
        self._clips = load_actions(config.annotations)
        fewest = config.num_observed if config.short_start == "skip" else 1
        self._places = [
            (uid, place)
            for uid, actions in self._clips.items()
            for place in range(fewest, len(actions) - config.num_future + 1)
        ]
        if not self._places:
            raise ValueError(
                f"{config.annotations}: no clip has {fewest} actions and {config.num_future} more; "
                "lower dataset.num_observed or dataset.num_future"
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        config = self._config
        uid, place = self._places[index]
        actions = self._clips[uid]
        seen = actions[max(place - config.num_observed, 0) : place]
        future = actions[place : place + config.num_future]
        clips = [
            ClipRef(config.source(a.video_uid), Span(max(a.start_sec, 0.0), a.end_sec))
            for a in seen
        ]
        clips += clips[-1:] * (config.num_observed - len(clips))
        labels = {
            "verb": [action.verb for action in future],
            "noun": [action.noun for action in future],
            "num_clips": len(seen),
        }
        return Sample(index, tuple(clips), ("",), labels)

    def chunk_of(self, index: int) -> str:
        """The annotated clip."""
        return self._places[index][0]


def load_actions(path: Path) -> dict[str, list[Action]]:
    """Actions of every annotated clip, by their number in it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An entry that cannot be read; names file and entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["clips"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no json with a list `clips`: {error}") from error
    found: dict[str, list[tuple[int, Action]]] = {}
    for number, entry in enumerate(entries):
        try:
            row = int(entry["action_idx"]), _action(entry)
        except KeyError as error:
            raise ValueError(f"{path}, clips[{number}]: {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, clips[{number}]: {error}") from error
        found.setdefault(str(entry["clip_uid"]), []).append(row)
    return {
        uid: [action for _, action in sorted(rows, key=lambda r: r[0])]
        for uid, rows in found.items()
    }


def _action(entry: Mapping[str, Any]) -> Action:
    offset = float(entry.get("clip_parent_start_sec", 0.0))
    action = Action(
        video_uid=str(entry["video_uid"]),
        start_sec=offset + float(entry["action_clip_start_sec"]),
        end_sec=offset + float(entry["action_clip_end_sec"]),
        verb=int(entry["verb_label"]),
        noun=int(entry["noun_label"]),
    )
    if not action.start_sec < action.end_sec:
        raise ValueError(f"{action.start_sec} .. {action.end_sec} s holds no time")
    return action
