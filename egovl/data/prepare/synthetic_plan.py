"""Decide what happens in every rendered video: the object, its verbs, poses and times.

The rule against shortcuts. A handled object has four attributes: left/right, low/high, closed/open,
far/near. A verb moves one of them from one extreme to the other over its clip; the rest stay put
at values drawn per clip. Played backwards, "opens" is "closes": single frames and unordered frames
tell the pair, never which of the two. A video repeats the verbs of two pairs on one object, so the
clip that answers an intra-video question stands among four clips of its time-reversed partner, and
whoever cannot read the order of frames is left with one guess in five.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np

from egovl.data.prepare.configs import FRAMES_PER_SEC, SyntheticConfig

ATTRIBUTES = ("right", "high", "open", "near")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("box", "pot", "bag", "case")
NOUNS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

MEAN_GAP_SEC = 1.3  # between narrations; clips last a second on average whatever it is
IDLE_SEC = 0.3  # before the first and after the last clip of a video
PAIRS_PER_VIDEO = 2
REPEATS = 5  # of each verb of a video; a question needs four clips of the partner verb
REST_EXTENT = 0.3  # how far from neutral an attribute may stay that the verb does not move

TRAIN, EVAL = 0, 1


@dataclass(frozen=True)
class Verb:
    """One action: `attribute` (index into ATTRIBUTES) goes from 1 - `ends_at` to `ends_at`."""

    phrase: str
    attribute: int
    ends_at: int


VERBS = (
    Verb("pushes the {} to the left", 0, 0),
    Verb("pushes the {} to the right", 0, 1),
    Verb("lowers the {}", 1, 0),
    Verb("lifts the {}", 1, 1),
    Verb("closes the {}", 2, 0),
    Verb("opens the {}", 2, 1),
    Verb("takes the {} away", 3, 0),
    Verb("brings the {} closer", 3, 1),
)


@dataclass(frozen=True, eq=False)
class Action:
    """One narrated clip: `verb` indexes VERBS; rows of poses are [4] attributes, -1 .. 1."""

    verb: int
    noun: int
    narration_sec: float
    start_sec: float
    end_sec: float
    first_pose: np.ndarray
    last_pose: np.ndarray

    @property
    def text(self) -> str:
        """The narration as EgoClip writes it."""
        return "#C C " + VERBS[self.verb].phrase.format(NOUNS[self.noun])


@dataclass(frozen=True, eq=False)
class VideoPlan:
    """One video before it has pixels. `key` seeds the generator of its looks."""

    uid: str
    split: int
    key: tuple[int, int, int]
    noun: int
    actions: tuple[Action, ...]
    num_frames: int

    @property
    def duration_sec(self) -> float:
        """Length of the video."""
        return self.num_frames / FRAMES_PER_SEC


@dataclass(frozen=True, eq=False)
class _Script:
    """The events of one video, before the clip length, which needs all videos, is known."""

    uid: str
    split: int
    key: tuple[int, int, int]
    noun: int
    events: tuple[tuple[int, np.ndarray, np.ndarray], ...]  # verb, first and last pose
    gaps_sec: np.ndarray


def plan_videos(config: SyntheticConfig) -> list[VideoPlan]:
    """Plan every video, training ones first; equal configs give equal plans.

    Clip length follows EgoClip: a clip spans narration_time -+ beta / (2 alpha), where beta is the
    mean gap between narrations in its video and alpha the mean of all beta.
    """
    scripts = [
        *_write_scripts(config, TRAIN, config.train_videos),
        *_write_scripts(config, EVAL, config.eval_videos),
    ]
    alpha = float(np.mean([script.gaps_sec.mean() for script in scripts]))
    return [_time_actions(script, alpha) for script in scripts]


def sample_poses(verb: Verb, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the poses [4] at a clip's two ends; a verb and its partner draw from mirrored ones."""
    first = rng.uniform(-REST_EXTENT, REST_EXTENT, len(ATTRIBUTES))
    last = first.copy()
    low, high = -rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0)
    first[verb.attribute], last[verb.attribute] = (low, high) if verb.ends_at else (high, low)
    return first, last


def _write_scripts(config: SyntheticConfig, split: int, num_videos: int) -> list[_Script]:
    deck_rng = np.random.default_rng((config.seed, split))
    deck: list[int] = []
    scripts: list[_Script] = []
    for index in range(num_videos):
        # dealing from shuffled decks gives every object the same share of the corpus
        if not deck:
            deck = deck_rng.permutation(len(NOUNS)).tolist()
        scripts.append(_write_script((config.seed, split, index), deck.pop()))
    return scripts


def _write_script(key: tuple[int, int, int], noun: int) -> _Script:
    rng = np.random.default_rng((*key, 0))
    uid = str(uuid.UUID(bytes=rng.bytes(16), version=4))
    attributes = rng.permutation(len(ATTRIBUTES))[:PAIRS_PER_VIDEO]
    verbs = [i for i, verb in enumerate(VERBS) if verb.attribute in attributes] * REPEATS
    events = tuple((verb, *sample_poses(VERBS[verb], rng)) for verb in rng.permutation(verbs))
    pace_sec = MEAN_GAP_SEC * rng.uniform(0.9, 1.1)
    gaps_sec = pace_sec * rng.uniform(0.9, 1.1, len(events) - 1)
    return _Script(uid, key[1], key, noun, events, gaps_sec)


def _time_actions(script: _Script, alpha: float) -> VideoPlan:
    half_sec = script.gaps_sec.mean() / alpha / 2
    first_sec = IDLE_SEC + half_sec
    times_sec = np.round(first_sec + np.concatenate([[0.0], np.cumsum(script.gaps_sec)]), 4)
    actions = tuple(
        Action(
            verb=int(verb),
            noun=script.noun,
            narration_sec=float(time_sec),
            start_sec=round(float(time_sec - half_sec), 6),
            end_sec=round(float(time_sec + half_sec), 6),
            first_pose=first,
            last_pose=last,
        )
        for (verb, first, last), time_sec in zip(script.events, times_sec, strict=True)
    )
    num_frames = int(np.ceil((actions[-1].end_sec + IDLE_SEC) * FRAMES_PER_SEC))
    return VideoPlan(script.uid, script.split, script.key, script.noun, actions, num_frames)
