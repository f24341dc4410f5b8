"""Timed lines as subtitles and as a page with frames."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egovl.atomic import replacing

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
ol { list-style: none; padding: 0; }
li { display: grid; grid-template-columns: minmax(0, 1fr); gap: .4rem; margin: 0 0 1.6rem; }
.frames { display: flex; gap: 4px; }
.frames img { width: 24%; min-width: 0; border-radius: 4px; }
time { font-variant-numeric: tabular-nums; opacity: .65; font-size: .9rem; }
p { margin: 0; }
p + p { opacity: .75; }
"""


@dataclass(frozen=True)
class TimedLine:
    """What a stretch of a video shows: texts, the first one the caption; JPEGs of its frames."""

    start_sec: float
    end_sec: float
    texts: tuple[str, ...]
    frames: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return f"{clock(self.start_sec)} - {clock(self.end_sec)}  {' | '.join(self.texts)}"


def clock(seconds: float) -> str:
    """``h:mm:ss.t``."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def write_srt(lines: Sequence[TimedLine], path: Path) -> None:
    """SubRip: a number, from and to, the caption, an empty line."""
    with replacing(path) as file:
        for number, line in enumerate(lines, 1):
            span = f"{_srt_time(line.start_sec)} --> {_srt_time(line.end_sec)}"
            file.write(f"{number}\n{span}\n{line.texts[0] or '...'}\n\n")


def write_page(lines: Sequence[TimedLine], path: Path, title: str) -> None:
    """One html file that holds its pictures."""
    items = "\n".join(_item(line) for line in lines)
    name = html.escape(title)
    with replacing(path) as file:
        file.write(
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{name}</title>\n<style>{_STYLE}</style>\n"
            f"<h1>{name}</h1>\n<ol>\n{items}\n</ol>\n</html>\n"
        )


def _item(line: TimedLine) -> str:
    pictures = "".join(
        f'<img alt="frame {number}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        for number, jpeg in enumerate(line.frames, 1)
    )
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in line.texts)
    span = f"{clock(line.start_sec)} - {clock(line.end_sec)}"
    return f'<li><div class="frames">{pictures}</div><time>{span}</time>{texts}</li>'


def _srt_time(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    rest, milliseconds = divmod(thousandths, 1000)
    return f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d},{milliseconds:03d}"
