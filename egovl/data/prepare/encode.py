"""Encode frames as chunks that training reads fast: h264, many keyframes, no B-frames."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

KEYFRAME_INTERVAL = 15  # a random clip decodes few frames (design, speed)


def encode_video(path: Path, frames: Iterable[np.ndarray], fps: int, *, crf: int = 20) -> int:
    """Write RGB uint8 frames [H, W, 3] of even size as an mp4; returns how many.

    The file is written beside and renamed, so a half-written video never bears its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    count = 0
    with av.open(str(beside), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # equal bytes wherever it runs
        stream.options = {
            "preset": "veryfast",
            "crf": str(crf),
            "g": str(KEYFRAME_INTERVAL),
            "bf": "0",
        }
        for image in frames:
            if not count:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            count += 1
        container.mux(stream.encode())
    beside.replace(path)
    return count
