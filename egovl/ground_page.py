"""An html page of one video: questions, their spans on a time line, a picture of each."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from egovl.atomic import replacing
from egovl.data.decode import open_reader
from egovl.data.image_reader import write_image

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --span: #2f7d4f; --ink: CanvasText; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
h2 { font-size: 1rem; font-weight: 600; margin: 1.6rem 0 .4rem; }
video { width: 100%; max-height: 24rem; background: #000; display: block; }
.line { position: relative; height: 1.6rem; border: 1px solid var(--line); border-radius: 4px; }
.line button { position: absolute; top: 0; bottom: 0; min-width: 3px; padding: 0; border: 0;
  background: var(--span); border-radius: 2px; cursor: pointer; }
.line .now { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--ink); }
.ends { display: flex; justify-content: space-between; font-size: .8rem; }
ol { list-style: none; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
li button { font: inherit; text-align: left; width: 100%; padding: .4rem; cursor: pointer;
  border: 1px solid var(--line); border-radius: 4px; background: none; color: inherit; }
li img { width: 100%; display: block; border-radius: 2px; }
button:focus-visible { outline: 2px solid var(--span); outline-offset: 2px; }
.playing { border-color: var(--span) !important; }
"""

_SCRIPT = """
const video = document.querySelector('video');
let end = null;
for (const button of document.querySelectorAll('[data-start]')) {
  button.addEventListener('click', () => {
    for (const other of document.querySelectorAll('.playing')) other.classList.remove('playing');
    const {query, rank} = button.dataset;
    const same = `[data-query="${query}"][data-rank="${rank}"]`;
    for (const other of document.querySelectorAll(same)) other.classList.add('playing');
    video.currentTime = Number(button.dataset.start);
    end = Number(button.dataset.end);
    video.play().catch(() => {});
  });
}
video.addEventListener('timeupdate', () => {
  const place = 100 * video.currentTime / Number(document.body.dataset.duration) + '%';
  for (const now of document.querySelectorAll('.now')) now.style.left = place;
  if (end !== null && video.currentTime >= end) { video.pause(); end = null; }
});
"""


@dataclass(frozen=True)
class FoundSpan:
    """A stretch of the video and how sure the model is, 0 .. 1."""

    start_sec: float
    end_sec: float
    score: float


def write_page(
    page: Path, video: Path, answers: Mapping[str, Sequence[FoundSpan]], duration_sec: float
) -> None:
    """Write the page and, in a folder beside it, a picture of every span's middle.

    Args:
        page: the html file.
        video: the page plays it from where it lies.
        answers: spans of each question, best first.
        duration_sec: length of the video.
    """
    pictures = page.with_suffix(".pictures")
    sections = []
    for number, (query, spans) in enumerate(answers.items()):
        names = _write_pictures(video, spans, pictures, number)
        sections.append(_section(number, query, spans, names, duration_sec))
    source = quote(os.path.relpath(video.resolve(), page.resolve().parent))
    title = html.escape(video.name)
    spoken = {query: [asdict(span) for span in spans] for query, spans in answers.items()}
    data = json.dumps(spoken).replace("<", "\\u003c")
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body data-duration="{duration_sec:.3f}"><h1>{title}</h1>
<video src="{source}" controls preload="metadata"></video>
{"".join(sections)}
<script type="application/json" id="answers">{data}</script>
<script>{_SCRIPT}</script></body></html>
"""
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as file:
        file.write(text)


def _write_pictures(
    video: Path, spans: Sequence[FoundSpan], folder: Path, number: int
) -> list[str]:
    if not spans:
        return []
    reader = open_reader(video)
    last = reader.num_frames - 1
    frames = [min(last, int((span.start_sec + span.end_sec) / 2 * reader.fps)) for span in spans]
    wanted = sorted(set(frames))
    pixels = dict(zip(wanted, reader.read(wanted), strict=True))
    names = []
    for rank, frame in enumerate(frames):
        path = folder / f"{number}-{rank}.jpg"
        write_image(path, pixels[frame])
        names.append(f"{quote(folder.name)}/{path.name}")
    return names


def _section(
    number: int,
    query: str,
    spans: Sequence[FoundSpan],
    pictures: Sequence[str],
    duration_sec: float,
) -> str:
    marks, rows = [], []
    for rank, (span, picture) in enumerate(zip(spans, pictures, strict=True)):
        facts = (
            f'data-query="{number}" data-rank="{rank}" data-start="{span.start_sec:.3f}" '
            f'data-end="{span.end_sec:.3f}"'
        )
        label = f"{_clock(span.start_sec)} to {_clock(span.end_sec)}, score {span.score:.3f}"
        left = 100 * span.start_sec / duration_sec
        width = 100 * (span.end_sec - span.start_sec) / duration_sec
        shade = 1.0 - 0.15 * rank
        marks.append(
            f'<button {facts} title="{label}" aria-label="{label}" '
            f'style="left:{left:.2f}%;width:{width:.2f}%;opacity:{max(shade, 0.3):.2f}"></button>'
        )
        rows.append(
            f'<li><button {facts}><img src="{picture}" alt="">{rank + 1}. {label}</button></li>'
        )
    found = f"<ol>{''.join(rows)}</ol>" if rows else "<p>Nothing found.</p>"
    return (
        f"<section><h2>{html.escape(query)}</h2>"
        f'<div class="line">{"".join(marks)}<span class="now" style="left:0"></span></div>'
        f'<div class="ends"><span>0:00</span><span>{_clock(duration_sec)}</span></div>'
        f"{found}</section>"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
