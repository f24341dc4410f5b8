"""Encode frames as chunks that training reads fast: h264, many keyframes, no B-frames.

The encoder is the one inside PyAV's wheel; no system package is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

KEYFRAME_INTERVAL = 15  # a random clip decodes few frames (design, speed)
_X264 = {
    "preset": "veryfast",
    "tune": "zerolatency",  # with look-ahead the same frames sometimes gave other bytes
    "crf": "18",
    "bf": "0",
    "g": str(KEYFRAME_INTERVAL),
    "keyint_min": "1",
    "sc_threshold": "0",
    "threads": "1",
}


def encode_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> int:
    """Write RGB uint8 frames [H, W, 3] of even size as an mp4; returns how many.

    Equal frames give equal bytes. The file is written beside and renamed, so a half-written video
    never bears its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.part{path.suffix}")
    count = 0
    with av.open(str(beside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=_X264)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for image in frames:
            if not count:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode())
    beside.replace(path)
    return count
