"""The page in a real headless Chromium, with real clicks, keys and pictures."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.collect import collect
from jobs.report import write_report
from jobs.result_table import TableRequest, build_table
from tests.jobs.browser import Browser, start_browser
from tests.jobs.run_folders import eval_line, make_run, train_line
from tests.jobs.test_report import EVIL, make_runs

pytestmark = pytest.mark.slow

NAMES = "[...document.querySelectorAll('tr.run .name button')].map((each) => each.title)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"))


def write_page(runs: Path, page: Path, **wanted: bool) -> Path:
    found = collect(runs)
    write_report(str(page), found, build_table(found, TableRequest(**wanted)), "Results")
    return page


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """The browser with the page just opened; the page must not have complained at the end."""
    browser.errors.clear()
    browser.size(1280, 1000)
    browser.open(page)
    yield browser
    assert browser.errors == []


def line_of(browser: Browser, name: str) -> str:
    """Selector of a run's row."""
    index = browser.run(f"{NAMES}.indexOf({name!r})")
    assert index >= 0, browser.run(NAMES)
    line = browser.run(f"document.querySelectorAll('tr.run')[{index}].dataset.line")
    return f'tr[data-line="{line}"]'


def test_a_click_on_a_column_orders_the_rows_and_another_turns_them_round(opened: Browser) -> None:
    head = 'th[data-name="egomcq/inter_video"]'
    opened.click(f"{head} button")
    assert opened.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    assert opened.run(NAMES)[:3] == ["second", "first", "third"]  # 95, 50, 8.5, then none
    opened.click(f"{head} button")
    assert opened.run(NAMES)[:3] == ["third", "first", "second"]
    assert opened.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert opened.run("location.hash") == "#sort=egomcq%2Finter_video"


def test_the_keyboard_sorts_and_opens_too(opened: Browser) -> None:
    opened.run("document.querySelector('th[data-name=\"name\"] button').focus()")
    opened.key("Enter")
    names = opened.run(NAMES)
    assert names == sorted(names, key=str.lower)
    assert opened.run("document.activeElement.closest('th').dataset.name") == "name"
    opened.run(f"document.querySelector('{line_of(opened, 'first')} .name button').focus()")
    opened.key("Enter")
    assert opened.run("document.querySelectorAll('tr.detail').length") == 1


def test_an_address_keeps_the_order_and_opens_a_run(browser: Browser, page: Path) -> None:
    browser.open(page, "#sort=-egomcq%2Finter_video")
    browser.wait(f"{NAMES}[0] === 'second'")
    browser.open(page.with_name("absent"), "")  # so that the next one is a new page
    browser.open(page, "#run=pretrain/third")
    browser.wait("document.querySelectorAll('tr.detail').length === 1")
    browser.errors.clear()


def test_typing_filters_by_words_values_and_states(opened: Browser) -> None:
    opened.click("#filter")
    opened.type("pretrain seed=1")
    assert opened.run(NAMES) == ["second"]
    assert opened.run("document.getElementById('shown').textContent") == "1 of 5"
    opened.run("document.getElementById('filter').select()")
    opened.type("no such run")
    assert opened.run(NAMES) == []
    opened.run("document.getElementById('filter').select()")
    opened.type("t")
    done = opened.run(
        "[...document.querySelectorAll('.chip')].findIndex((chip) => chip.textContent === '2 done')"
    )
    opened.click(f".chip:nth-child({done + 1})")
    assert sorted(opened.run(NAMES)) == ["first", "third"]


def test_a_run_opens_to_its_facts_and_curves(opened: Browser, tmp_path: Path) -> None:
    line = line_of(opened, "first")
    opened.click(f"{line} .name button")
    detail = f"{line} + tr.detail"
    assert opened.run(f"document.querySelectorAll('{detail} svg').length") == 3
    path = opened.run(f"document.querySelector('{detail} svg path.line').getAttribute('d')")
    assert path.count("L") == 198
    text = opened.run(f"document.querySelector('{detail}').textContent")
    assert "199 of 200" in text and "egomcq/intra_video" in text and "whole config (2 keys)" in text
    opened.hover(f"{detail} svg")
    tip = opened.run(f"document.querySelector('{detail} .tip').textContent")
    assert re.match(r"step \d+first\d", tip)
    look(opened, tmp_path / "detail.png")
    opened.click(f"{line} .name button")
    assert opened.run("document.querySelectorAll('tr.detail').length") == 0


def test_names_and_reasons_of_runs_are_text_and_never_code(opened: Browser) -> None:
    opened.click(f"{line_of(opened, EVIL)} .name button")
    assert opened.run("document.querySelectorAll('img').length") == 0
    assert opened.run("document.scripts.length") == 3
    assert EVIL in opened.run("document.querySelector('tr.detail').textContent")
    assert opened.run("document.querySelector('.remarks').textContent").count(EVIL) >= 2


def test_picked_runs_are_drawn_together(opened: Browser) -> None:
    def lines() -> int:
        return opened.run("document.querySelectorAll('#charts figure:first-child .line').length")

    assert lines() == 4  # all that have a curve
    opened.click(f"{line_of(opened, 'second')} .pick input")
    assert lines() == 3
    legend = opened.run("document.getElementById('legend').textContent")
    assert "first" in legend and "second" not in legend
    opened.click("#legend button")
    assert lines() == 2


def test_smoothing_logarithm_and_band_change_the_curves(opened: Browser) -> None:
    def first(name: str) -> str:
        return opened.run(f"document.querySelector('#charts svg path.{name}')?.getAttribute('d')")

    before = first("line")
    opened.run("document.getElementById('weight').value = 0.9")
    opened.run("document.getElementById('weight').dispatchEvent(new Event('input'))")
    smooth = first("line")
    assert smooth != before and first("raw")
    opened.click("#log")
    assert first("line") != smooth
    assert opened.run("document.querySelectorAll('#charts .band').length") == 0
    opened.click("#band")
    assert opened.run("document.querySelectorAll('#charts .band').length") == 3
    assert "(3 seeds)" in opened.run("document.getElementById('legend').textContent")
    assert "Z" in first("band")


def test_the_page_prints(opened: Browser) -> None:
    assert opened.pdf().startswith(b"%PDF")


def test_attempts_are_marked_and_gaps_stay_gaps(browser: Browser, tmp_path: Path) -> None:
    lines = [train_line(step, 2.0, 1 if step < 40 else 2) for step in range(1, 81)]
    lines[9]["loss"] = float("nan")
    folder = make_run(tmp_path, "pretrain/a", lines, {"state": "running"})
    (folder / "attempts/1/outcome.json").write_text('{"cause": "preempt"}')
    browser.open(write_page(tmp_path, tmp_path / "a.html"))
    browser.click("tr.run .name button")
    assert browser.run("document.querySelector('tr.detail .mark').textContent") == (
        "attempt 2 from step 40, after preempt"
    )
    assert browser.run("document.querySelector('.detail .line').getAttribute('d')").count("M") == 2


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_is_not_blank(
    opened: Browser, tmp_path: Path, width: int, is_dark: bool
) -> None:
    opened.size(width, 900, is_dark=is_dark)
    assert opened.run("document.documentElement.scrollWidth") <= width
    light = look(opened, tmp_path / "page.png")
    assert light < 90 if is_dark else light > 200
    left = "document.querySelector('td.name').getBoundingClientRect().left"
    opened.run("document.querySelector('.frame').scrollLeft = 300")
    assert 0 <= opened.run(left) < 80


def test_a_table_of_groups_opens_to_its_members(
    browser: Browser, runs: Path, tmp_path: Path
) -> None:
    browser.size(1280, 1000)
    browser.open(write_page(runs, tmp_path / "groups.html", group=True))
    place = browser.run(
        "[...document.querySelectorAll('tr.run')].findIndex("
        "(row) => row.textContent.includes('0 1 2'))"
    )
    browser.click(f"tr.run:nth-child({place + 1}) .name button")
    text = browser.run("document.querySelector('tr.detail').textContent")
    assert all(name in text for name in ("first", "second", "third", "deviation of 3 runs"))
    assert browser.run("document.querySelectorAll('tr.detail .band').length") == 3


def test_thousands_of_runs_open_quickly_and_come_into_view(
    browser: Browser, tmp_path: Path
) -> None:
    for number in range(600):
        name = f"pretrain/{'very_long_name_' * 6}{number:05d}"
        make_run(tmp_path, name, [eval_line(5, number, 1)], {"state": "stopped"})
    browser.open(write_page(tmp_path, tmp_path / "many.html"))
    assert browser.run("document.querySelectorAll('tr.run').length") < 500
    browser.click('th[data-name="egomcq/inter_video"] button')
    assert browser.run(NAMES)[0].endswith("_00599")
    frame = "document.querySelector('.frame')"
    browser.run(f"{frame}.scrollTop = {frame}.scrollHeight")
    browser.wait("document.querySelectorAll('tr.run').length > 200")
    assert browser.run("document.documentElement.scrollWidth") <= 1280


def look(browser: Browser, path: Path) -> float:
    """Save a picture, check that it shows something, return its mean brightness, 0 to 255."""
    pixels = decode_png(browser.screenshot(path))
    counts: dict[bytes, int] = {}
    for at in range(0, len(pixels) - 3, 4 * 7):
        pixel = pixels[at : at + 3]
        counts[pixel] = counts.get(pixel, 0) + 1
    assert len(counts) > 30 and max(counts.values()) < 0.97 * sum(counts.values())
    return sum(sum(pixel) / 3 * count for pixel, count in counts.items()) / sum(counts.values())


def decode_png(data: bytes) -> bytes:
    """Return the RGBA bytes of a PNG of 8-bit RGB or RGBA without interlace."""
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    assert data[:4] == b"\x89PNG" and depth == 8 and color in (2, 6)
    packed, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    raw, size = zlib.decompress(packed), 3 if color == 2 else 4
    stride = width * size
    rows: list[bytearray] = [bytearray(stride)]
    for number in range(height):
        start = number * (stride + 1)
        rows.append(unfilter(raw[start], raw[start + 1 : start + 1 + stride], rows[-1], size))
    if size == 4:
        return b"".join(rows[1:])
    flat = b"".join(rows[1:])
    return b"".join(flat[at : at + 3] + b"\xff" for at in range(0, len(flat), 3))


def unfilter(kind: int, line: bytes, above: bytearray, size: int) -> bytearray:
    """Undo one of PNG's row filters (PNG specification, 9.2)."""
    row = bytearray(line)
    for at in range(len(row)):
        left = row[at - size] if at >= size else 0
        up, corner = above[at], above[at - size] if at >= size else 0
        if kind == 1:
            row[at] = (row[at] + left) & 255
        elif kind == 2:
            row[at] = (row[at] + up) & 255
        elif kind == 3:
            row[at] = (row[at] + (left + up) // 2) & 255
        elif kind == 4:
            guess = left + up - corner
            near = min((abs(guess - each), place) for place, each in enumerate((left, up, corner)))
            row[at] = (row[at] + (left, up, corner)[near[1]]) & 255
    return row
