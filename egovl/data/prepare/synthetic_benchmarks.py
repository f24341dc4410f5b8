"""Write the planned actions as the other benchmarks' annotations, in their released formats.

Every label follows from what happens in the videos: EK-100's csv files (verb, noun, sentences),
Charades-Ego's csv, EGTEA's splits over one file per action, Ego4D's state changes (opening and
closing change an object's state, moving it does not) and moments (MQ), LaViLa's pickled narration
lists, lists like WebVid's and Conceptual Captions' over the cut actions. Where a benchmark wants
its own file layout, links lead to the rendered videos.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from egovl.data.image_reader import write_image
from egovl.data.prepare.configs import FRAMES_PER_SEC
from egovl.data.prepare.encode import encode_video
from egovl.data.prepare.synthetic_plan import ATTRIBUTES, NOUNS, TRAIN, VERBS, Action, VideoPlan

SPLITS = ("train", "test")
STATE_ATTRIBUTE = ATTRIBUTES.index("open")
STATE_WINDOW_FRAMES = 48
_STATE_MARGIN_FRAMES = 8  # between the change and the ends of its window
_STATE_PLACES = STATE_WINDOW_FRAMES - 2 * _STATE_MARGIN_FRAMES
_STATE_STRIDE = 13  # from one window's place to the next one's: all places come equally often
_STATE_DRAWS = (12, 6)  # windows around each action of a training and of a held-out video
_EPIC_COLUMNS = (
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
_CHARADES_COLUMNS = (
    "id",
    "subject",
    "scene",
    "quality",
    "relevance",
    "verified",
    "script",
    "objects",
    "descriptions",
    "actions",
    "length",
)


def write_benchmarks(plans: Sequence[VideoPlan], folder: Path, seed: int, trimmed: int) -> None:
    """Write all of them below ``folder``; every video is one file ``videos/<uid>/0.mp4``."""
    for split, name in enumerate(SPLITS):
        chosen = [plan for plan in plans if plan.split == split]
        _write_epic(chosen, folder / "ek100", name)
        _write_charades(chosen, folder / "charades_ego", name)
        _write_state_changes(chosen, folder / "state_change", name, seed)
        _write_moments(chosen[:trimmed], folder / "moments", name)
        _write_egtea(chosen[:trimmed], folder / "egtea", name)
        _write_captions(chosen[:trimmed], folder / "captions", name)
        if split == TRAIN:
            _write_lists(chosen, folder / "narrations")
    classes = [f"c{k:03d} {sentence(*divmod(k, len(NOUNS)))}" for k in range(num_actions())]
    _write_lines(folder / "charades_ego" / "Charades_v1_classes.txt", classes)
    actions = [f"{_egtea_name(*divmod(k, len(NOUNS)))} {k + 1}" for k in range(num_actions())]
    _write_lines(folder / "egtea" / "action_idx.txt", actions)


def chance_percent() -> dict[str, float]:
    """Accuracy of guessing without looking, where a benchmark has one."""
    return {
        "ek100_verb": 100 / len(VERBS),
        "ek100_noun": 100 / len(NOUNS),
        "ek100_action": 100 / num_actions(),
        "egtea": 100 / num_actions(),
        "oscc": 50.0,
    }


def num_actions() -> int:
    """Verbs times objects."""
    return len(VERBS) * len(NOUNS)


def action_number(action: Action) -> int:
    """Class of an action: its verb, then its object."""
    return action.verb * len(NOUNS) + action.noun


def sentence(verb: int, noun: int) -> str:
    """What happens, without the camera wearer."""
    return VERBS[verb].phrase.format(NOUNS[noun])


def cut_actions(plan: VideoPlan, frames: np.ndarray, folder: Path) -> None:
    """Write a video and a picture per action, the video in EGTEA's layout."""
    for action in plan.actions:
        first, last = action_frames(action)
        stem = _stem(plan, action)
        encode_video(folder / "egtea" / "clips" / f"{stem}.mp4", frames[first:last], FRAMES_PER_SEC)
        write_image(folder / "captions" / "pictures" / f"{stem}.jpg", frames[last - 1])


def action_frames(action: Action) -> tuple[int, int]:
    """First frame of an action and one past its last."""
    return round(action.start_sec * FRAMES_PER_SEC), round(action.end_sec * FRAMES_PER_SEC)


def _write_epic(plans: Iterable[VideoPlan], folder: Path, split: str) -> None:
    rows, sentences, seen = [], [], set()
    for plan in plans:
        participant, video = _kitchen(plan)
        _link(folder / "videos" / participant / f"{video}.MP4", plan)
        for number, action in enumerate(plan.actions):
            text = sentence(action.verb, action.noun)
            identity = f"{video}_{number}"
            start, end = action_frames(action)
            verb = VERBS[action.verb].phrase.split()[0]
            noun = NOUNS[action.noun]
            rows.append(
                (
                    identity,
                    participant,
                    video,
                    timestamp(action.narration_sec),
                    timestamp(action.start_sec),
                    timestamp(action.end_sec),
                    start,
                    end,
                    text,
                    verb,
                    action.verb,
                    noun,
                    action.noun,
                    [noun],
                    [action.noun],
                )
            )
            if text not in seen:
                seen.add(text)
                sentences.append((identity, text))
    name = f"EPIC_100_retrieval_{split}"
    _write_table(folder / f"{name}.csv", _EPIC_COLUMNS, rows)
    _write_table(folder / f"{name}_sentence.csv", ("narration_id", "narration"), sentences)


def _write_charades(plans: Iterable[VideoPlan], folder: Path, split: str) -> None:
    rows = []
    for plan in plans:
        _link(folder / "videos" / f"{plan.uid}.mp4", plan)
        actions = ";".join(
            f"c{action_number(a):03d} {a.start_sec:.2f} {a.end_sec:.2f}" for a in plan.actions
        )
        nothing = [""] * 8
        rows.append((plan.uid, *nothing, actions, f"{plan.duration_sec:.2f}"))
    _write_table(folder / f"CharadesEgo_v1_{split}_only1st.csv", _CHARADES_COLUMNS, rows)


def _write_egtea(plans: Iterable[VideoPlan], folder: Path, split: str) -> None:
    lines = [
        f"{_clip_id(plan, a)} {action_number(a) + 1} {a.verb + 1} {a.noun + 1}"
        for plan in plans
        for a in plan.actions
    ]
    _write_lines(folder / f"{split}_split1.txt", lines)


def _write_captions(plans: Iterable[VideoPlan], folder: Path, split: str) -> None:
    """The cut actions as captioned videos, their last frames as captioned pictures."""
    name = "validation" if split == "test" else "training"
    actions = [(plan, action) for plan in plans for action in plan.actions]
    videos = [f"{a.text}\t{_stem(p, a)}" for p, a in actions]
    pictures = [f"#C C sees the {NOUNS[a.noun]}\t{_stem(p, a)}" for p, a in actions]
    _write_lines(folder / f"webvid_{name}.csv", ["caption\tpath", *videos])
    _write_lines(folder / f"cc3m_{name}.csv", ["caption\tpath", *pictures])


def _write_state_changes(plans: Iterable[VideoPlan], folder: Path, split: str, seed: int) -> None:
    """As many windows around an opening or closing as around another action of the same video.

    Were the videos of the two not the same, their looks would give the answer away.
    """
    clips: list[dict[str, object]] = []
    for plan in plans:
        first = int(np.random.default_rng((*plan.key, seed, 2)).integers(_STATE_PLACES))
        found: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for number in range(len(plan.actions) * _STATE_DRAWS[plan.split]):
            place = number % len(plan.actions)
            changes = _changes_state(plan.actions[place])
            turn = first + _STATE_STRIDE * len(found[changes])
            window = _state_window(plan, plan.actions[place], turn % _STATE_PLACES)
            if window is not None and not _shows_another_change(plan, place, window):
                found[changes].append(_state_clip(plan, number, window, changes))
        clips += (clip for pair in zip(found[True], found[False], strict=False) for clip in pair)
    path = folder / f"fho_oscc-pnr_{'val' if split == 'test' else split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"split": split, "clips": clips}), encoding="utf-8")


def _state_window(plan: VideoPlan, action: Action, place: int) -> tuple[int, int] | None:
    """A window with the middle of the action at one of its places; None outside the video."""
    start = _middle(action) - _STATE_MARGIN_FRAMES - place
    end = start + STATE_WINDOW_FRAMES
    return (start, end) if start >= 0 and end <= plan.num_frames else None


def _changes_state(action: Action) -> bool:
    return VERBS[action.verb].attribute == STATE_ATTRIBUTE


def _middle(action: Action) -> int:
    return round((action.start_sec + action.end_sec) / 2 * FRAMES_PER_SEC)


def _shows_another_change(plan: VideoPlan, place: int, window: tuple[int, int]) -> bool:
    """Whether a window around an action shows another opening or closing.

    Around an opening or closing: its middle. Around another action: anything of it, also how the
    object is made ready for it or put back, or half an opening would be called none.
    """
    actions = plan.actions
    around_change = _changes_state(actions[place])
    for number, other in enumerate(actions):
        if number == place or not _changes_state(other):
            continue
        first = last = _middle(other)
        if not around_change:
            first = action_frames(actions[number - 1])[1] if number else 0
            following = actions[number + 1 : number + 2]
            last = action_frames(following[0])[0] if following else plan.num_frames
        if first < window[1] and last >= window[0]:
            return True
    return False


def _state_clip(
    plan: VideoPlan, number: int, window: tuple[int, int], changes: bool
) -> dict[str, object]:
    start, end = window
    middle = _middle(plan.actions[number % len(plan.actions)])
    clip: dict[str, object] = {
        "unique_id": f"{plan.uid}_{number}",
        "video_uid": plan.uid,
        "clip_id": number,
        "state_change": changes,
        "clip_start_sec": 0.0,
        "clip_end_sec": (end - start) / FRAMES_PER_SEC,
        "parent_start_sec": start / FRAMES_PER_SEC,
        "parent_end_sec": end / FRAMES_PER_SEC,
        "clip_start_frame": 0,
        "clip_end_frame": end - start,
        "parent_start_frame": start,
        "parent_end_frame": end,
    }
    if changes:
        clip |= {"clip_pnr_frame": middle - start, "parent_pnr_frame": middle}
    return clip


def _write_moments(plans: Iterable[VideoPlan], folder: Path, split: str) -> None:
    """Two clips of each video and what is done in them, as Ego4D's MQ."""
    videos = [
        {
            "video_uid": plan.uid,
            "clips": [
                _moments_clip(plan, half, share * plan.duration_sec, plan.duration_sec / 2)
                for half, share in enumerate((0.0, 0.5))
            ],
        }
        for plan in plans
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"moments_{'val' if split == 'test' else split}.json"
    path.write_text(json.dumps({"videos": videos}), encoding="utf-8")


def _moments_clip(plan: VideoPlan, number: int, start: float, length: float) -> dict[str, object]:
    labels = [
        {
            "start_time": round(action.start_sec - start, 6),
            "end_time": round(action.end_sec - start, 6),
            "label": sentence(action.verb, action.noun).replace(" ", "_"),
            "primary": True,
        }
        for action in plan.actions
        if start <= action.start_sec and action.end_sec <= start + length
    ]
    return {
        "clip_uid": f"{plan.uid}-{number}",
        "video_start_sec": round(start, 6),
        "video_end_sec": round(start + length, 6),
        "annotations": [{"labels": labels}],
    }


def _write_lists(plans: Iterable[VideoPlan], folder: Path) -> None:
    """Human narrations, and a narrator's two wordings of the same clips with scores."""
    human: list[tuple[object, ...]] = []
    pseudo: list[tuple[object, ...]] = []
    for plan in plans:
        for action in plan.actions:
            clip = plan.uid, action.start_sec, action.end_sec
            text = sentence(action.verb, action.noun)
            human.append((*clip, action.text))
            pseudo.append((*clip, [f"C {text}", f"#C C {text} ."], [1.0, 2.0]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ego4d_train.pkl").write_bytes(pickle.dumps(human))
    (folder / "ego4d_train.narrator.pkl").write_bytes(pickle.dumps(pseudo))


def _kitchen(plan: VideoPlan) -> tuple[str, str]:
    """Participant and video of EK-100."""
    participant = f"P{plan.split + 1:02d}"
    return participant, f"{participant}_{plan.key[2]:03d}"


def _session(plan: VideoPlan) -> str:
    return f"S{plan.split}-R{plan.key[2]:04d}-Objects"


def _clip_id(plan: VideoPlan, action: Action) -> str:
    first, last = action_frames(action)
    milliseconds = round(action.start_sec * 1000), round(action.end_sec * 1000)
    return f"{_session(plan)}-{milliseconds[0]}-{milliseconds[1]}-F{first:06d}-F{last:06d}"


def _stem(plan: VideoPlan, action: Action) -> str:
    return f"{_session(plan)}/{_clip_id(plan, action)}"


def _egtea_name(verb: int, noun: int) -> str:
    """EGTEA joins the words of an object by underscores."""
    return VERBS[verb].phrase.format(NOUNS[noun].replace(" ", "_")).capitalize()


def timestamp(seconds: float) -> str:
    """``hh:mm:ss.fff``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{rest:06.3f}"


def _link(path: Path, plan: VideoPlan) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    root = next(parent for parent in path.parents if (parent / "videos" / plan.uid).is_dir())
    target = root / "videos" / plan.uid / "0.mp4"
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
