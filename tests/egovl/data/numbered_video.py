"""Small mp4 files whose frames carry their number in the picture, and annotations over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from egovl.data.datasets.egoclip_table import COLUMNS

BLOCK = 16  # pixels; the number stands in a 4 x 4 grid of black and white blocks
SIZE = 4 * BLOCK


def write_video(
    path: Path,
    num_frames: int,
    *,
    first_number: int = 0,
    rate: int = 30,
    b_frames: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """An h264 file, keyframe every 15 frames, whose frame k shows ``first_number + k``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "15", "bf": str(b_frames), "preset": "ultrafast", "crf": "20"}
        for number in range(first_number, first_number + num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_number(number), "rgb24")))
        container.mux(stream.encode())
    return path


def draw_number(number: int) -> np.ndarray:
    """``[64, 64, 3]`` uint8 picture of a number below 65536."""
    bits = np.array([number >> bit & 1 for bit in range(16)], dtype=np.uint8).reshape(4, 4)
    return np.repeat((bits * 255).repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None], 3, axis=2)


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers shown by ``[T, 64, 64, 3]`` frames."""
    middles = frames[:, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK, 1] > 127
    return [int(sum(bool(bit) << k for k, bit in enumerate(m.ravel()))) for m in middles]


def write_egoclip(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    """An EgoClip table of ``(uid, start_sec, end_sec, text, verbs, nouns)`` rows."""
    lines = ["\t".join(COLUMNS)]
    for i, (uid, start, end, text, verbs, nouns) in enumerate(rows):
        middle = (float(str(start)) + float(str(end))) / 2
        cells = [i, uid, 3000.0, "narration_pass_1", i, middle, start, end, text, verbs, nouns]
        lines.append("\t".join(str(cell) for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_egomcq(path: Path, num_questions: int, uids: Sequence[str]) -> Path:
    """EgoMCQ questions over the given videos, one second per choice."""
    questions = {}
    for q in range(num_questions):
        choices = {
            str(k): {
                "video_uid": uids[(q + k) % len(uids)],
                "clip_start": float(k),
                "clip_end": k + 1.0,
                "clip_text": f"#C C does {q} {k}",
            }
            for k in range(5)
        }
        questions[str(q)] = {
            "answer": q % 5,
            "types": 1 + q % 2,
            "choices": choices,
            "query": choices[str(q % 5)],
        }
    path.write_text(json.dumps(questions))
    return path
