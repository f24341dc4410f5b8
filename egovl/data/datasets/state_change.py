"""Ego4D's state changes: is there one (OSCC), at which frame (PNR). EgoVLP spec 3.12."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egovl.data.datasets.configs import StateChangeConfig
from egovl.data.manifest import keep_known
from egovl.data.sampling import keyframe_ids, range_frame_ids
from egovl.data.types import ClipRef, RandomSource, Sample, Span, VideoSource

FRAMES_PER_SEC = 30
SHORTEST_SEC, LONGEST_SEC = 5.0, 8.0


@dataclass(frozen=True, slots=True)
class StateClip:
    """One clip of the annotation file; frames and seconds of the parent video."""

    unique_id: str
    video_uid: str
    state_change: bool
    start_sec: float
    end_sec: float
    start_frame: int
    end_frame: int
    keyframe: int | None

    @property
    def fps(self) -> float:
        """Frames per second as the annotation counts them."""
        return (self.end_frame - self.start_frame + 1) / (self.end_sec - self.start_sec)


class StateChanges:
    """OSCC: 16 frames of a clip, label ``state_change`` 0/1.

    Raises:
        FileNotFoundError: The annotations or the frames' folder are missing.
        ValueError: A broken entry; names file and clip.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: StateChangeConfig) -> None:
        config.check_root()
        self._config = config
        clips = load_clips(config.annotations)[: config.max_clips]
        known = keep_known(clips, lambda clip: [clip.video_uid], config.manifest, "state changes")
        self._clips = self._chosen(known)
        if not self._clips:
            raise ValueError(f"{config.annotations} has no clip to use")

    def _chosen(self, clips: list[StateClip]) -> list[StateClip]:
        return clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Sample:
        clip = self._clips[index]
        return self._sample(index, clip.start_frame, clip.end_frame)

    def draw_sample(self, index: int, random: RandomSource) -> Sample:
        """A stretch of 5 to 8 seconds of the clip that holds its keyframe."""
        clip = self._clips[index]
        start, end = draw_window(clip, random, legacy_offset=self._config.legacy_offset)
        if end - start < self._config.num_frames:
            return self[index]
        return self._sample(index, start, end)

    def chunk_of(self, index: int) -> str:
        """Folder or video of a clip."""
        clip = self._clips[index]
        return clip.unique_id if self._config.extracted else clip.video_uid

    def _sample(self, index: int, start: int, end: int) -> Sample:
        clip = self._clips[index]
        choose = keyframe_ids if self._config.spacing == "multiples" else range_frame_ids
        frames = tuple(choose(start, end, self._config.num_frames))
        span = Span(clip.start_sec, clip.end_sec)
        reference = ClipRef(self._source(clip), span, frames=frames)
        return Sample(index, (reference,), ("",), self._labels(clip, frames))

    def _labels(self, clip: StateClip, frames: tuple[int, ...]) -> dict[str, int | float]:
        return {"state_change": int(clip.state_change)}

    def _source(self, clip: StateClip) -> VideoSource:
        if not self._config.extracted:
            return self._config.source(clip.video_uid)
        kind = "frames_jpeg" if clip.state_change else "frames_jpeg_neg"
        return VideoSource(path=self._config.video_root / kind / clip.unique_id)


class Keyframes(StateChanges):
    """PNR: clips with a state change; label ``keyframe``, the place of the nearest frame.

    Further labels are what the error in seconds needs: ``keyframe_frame``, ``start_frame``,
    ``end_frame``, ``fps``.
    """

    def _chosen(self, clips: list[StateClip]) -> list[StateClip]:
        return [clip for clip in clips if clip.state_change and clip.keyframe is not None]

    def _labels(self, clip: StateClip, frames: tuple[int, ...]) -> dict[str, int | float]:
        assert clip.keyframe is not None
        return {
            "keyframe": nearest_place(frames, clip.keyframe),
            "keyframe_frame": clip.keyframe,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "fps": clip.fps,
        }


def nearest_place(frames: tuple[int, ...] | list[int], keyframe: int) -> int:
    """Place of the frame nearest to the keyframe, the first of equally near ones."""
    return min(range(len(frames)), key=lambda i: abs(frames[i] - keyframe))


def draw_window(
    clip: StateClip, random: RandomSource, *, legacy_offset: bool = False
) -> tuple[int, int]:
    """First frame and one past the last of a random stretch around the keyframe.

    Five to eight seconds of the published clips' eight; the same share of a clip of other length.
    """
    length_sec = random.uniform(SHORTEST_SEC, LONGEST_SEC)
    spare = LONGEST_SEC - length_sec
    offset_sec = random.uniform(spare, 1.0) if legacy_offset else random.uniform(0.0, spare)
    scale = (clip.end_sec - clip.start_sec) / LONGEST_SEC
    start_sec = clip.start_sec + offset_sec * scale
    end_sec = min(start_sec + length_sec * scale, clip.end_sec)
    start, end = math.floor(FRAMES_PER_SEC * start_sec), math.floor(FRAMES_PER_SEC * end_sec)
    if clip.keyframe is not None:
        start = clip.start_frame if clip.keyframe < start else start
        end = clip.end_frame if clip.keyframe > end else end
    return start, end


def load_clips(path: Path) -> list[StateClip]:
    """Clips of ``fho_oscc-pnr_*.json``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Names file and clip.
    """
    clips = []
    for number, entry in enumerate(load_json(path).get("clips", [])):
        try:
            clips.append(_read_clip(entry))
        except KeyError as error:
            raise ValueError(f"{path}, clip {number}: {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, clip {number}: {error}") from error
    if not clips:
        raise ValueError(f"{path} has no clips")
    return clips


def load_json(path: Path) -> dict[str, Any]:
    """The object of an annotation file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not a json object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not json: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _read_clip(entry: Mapping[str, Any]) -> StateClip:
    state_change = bool(entry.get("state_change", False))
    keyframe = entry.get("parent_pnr_frame")
    clip = StateClip(
        unique_id=str(entry["unique_id"]),
        video_uid=str(entry["video_uid"]),
        state_change=state_change,
        start_sec=float(entry["parent_start_sec"]),
        end_sec=float(entry["parent_end_sec"]),
        start_frame=int(entry["parent_start_frame"]),
        end_frame=int(entry["parent_end_frame"]),
        keyframe=int(keyframe) if state_change and keyframe is not None else None,
    )
    if not clip.start_frame < clip.end_frame or not clip.start_sec < clip.end_sec:
        raise ValueError(f"{clip.unique_id}: it ends where it begins")
    return clip
