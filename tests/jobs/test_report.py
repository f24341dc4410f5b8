from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs.collect import collect_runs
from jobs.report import render_html, write_report
from tests.jobs.run_folders import eval_line, make_run, train_line
from tests.slurm.packages import install

VOID = {"meta", "input", "br"}
BROWSER = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=3000", "--window-size=1280,1400"),
]


class Page(HTMLParser):
    """Checks that tags nest, and keeps addresses, cells and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "polyline")  # of svg; html knows no such tags

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.rows[-1][-1] += data


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


EVIL = "<script>alert(1)<img onerror=x>\"'&"


def make_runs(runs: Path) -> Path:
    for number, name in enumerate(("first", "second", "third")):
        lines = [train_line(step, 5.0 - number - step / 100) for step in range(1, 200)]
        lines += [eval_line(step, 20 + (7, 60, 30)[number] + step / 10, 30) for step in (50, 150)]
        metrics = {"egomcq/inter_video": (50.0, 94.5, 8.5)[number]} if number != 1 else None
        make_run(runs, f"pretrain/{name}", lines, {"state": "running"}, metrics, commits=[100])
    evil = [{**eval_line(3, 1, 2), "name": EVIL}, train_line(4, 1.0)]
    make_run(runs, f"finetune/{EVIL}", evil, {"state": "failed", "reason": EVIL})
    with open(runs / f"finetune/{EVIL}/metrics.jsonl", "a") as file:
        file.write("{half")
    make_run(runs, "finetune/empty")
    return runs


def test_page_is_well_formed_self_contained_and_escaped(tmp_path: Path) -> None:
    html = render_html(collect_runs(make_runs(tmp_path)), f"Title {EVIL}")
    page = parse(html)
    assert page.scripts == 1 and EVIL not in html
    assert page.addresses and all(address.startswith("#run-") for address in page.addresses)
    assert "http" not in html
    names = [row[1] for row in page.rows if row]
    assert sorted(names) == sorted([EVIL, "empty", "first", "second", "third"])
    assert html.count("<polyline") > 8 and "damaged line" in html


def test_page_without_runs_says_so() -> None:
    html = render_html([], "Results")
    assert "No runs yet" in html
    parse(html)


def test_values_that_are_not_numbers_are_shown_and_do_not_break_sorting(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, float("nan")), train_line(2, float("inf"))])
    html = render_html(collect_runs(tmp_path), "x")
    assert '<td data-value="">inf</td>' in html
    parse(html)


def test_an_older_page_is_replaced_whole_and_readable_by_others(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    write_report(page, [], "x")
    assert page.read_text().startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert page.stat().st_mode & 0o044 == 0o044


def find_browser() -> str:
    """Path of Chromium, installed where that is possible; else the test skips."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install("chromium")
        found = shutil.which("chromium")
    return found or pytest.skip("NO BROWSER on this machine: apt-get install chromium")


def browse(page: str, tmp_path: Path, *arguments: str) -> str:
    profile = f"--user-data-dir={tmp_path / f'profile{len(os.listdir(tmp_path))}'}"
    command = [find_browser(), *BROWSER, profile, *arguments, page]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def names_in(dom: str) -> list[str]:
    return re.findall(r'<td class="text"><a href="#run-\d+">(\w+)</a>', dom)


@pytest.mark.slow
def test_a_real_browser_sorts_by_address_and_by_click_and_filters(tmp_path: Path) -> None:
    page = tmp_path / "runs" / "report.html"
    write_report(page, collect_runs(make_runs(page.parent)), "Results")
    plain = names_in(browse(f"file://{page}", tmp_path, "--dump-dom"))
    assert sorted(plain) == ["empty", "first", "second", "third"]  # the evil one is no \w+ name
    down = browse(f"file://{page}#sort=-egomcq%2Finter_video", tmp_path, "--dump-dom")
    assert names_in(down)[:3] == ["second", "first", "third"]  # 95, 50, 8.5, then none
    assert 'data-name="egomcq/inter_video" aria-sort="descending"' in down
    up = browse(f"file://{page}#sort=egomcq/inter_video", tmp_path, "--dump-dom")
    assert names_in(up)[:3] == ["third", "first", "second"]

    clicked = tmp_path / "clicked.html"
    action = """<script>
      const press = (name) => document.querySelector(`th[data-name="${name}"] button`).click();
      press("loss"); press("loss");
      const box = document.getElementById("filter");
      box.value = "pretrain first"; box.dispatchEvent(new Event("input"));
    </script>"""
    clicked.write_text(page.read_text() + action)
    dom = browse(f"file://{clicked}", tmp_path, "--dump-dom")
    assert 'data-name="loss" aria-sort="ascending"' in dom
    assert [name for name in names_in(dom) if name != "empty"] == ["first", "third", "second"]
    assert dom.count("<tr hidden") == 4


@pytest.mark.slow
def test_a_real_browser_runs_no_code_of_a_run_and_opens_its_details(tmp_path: Path) -> None:
    page = tmp_path / "runs" / "report.html"
    write_report(page, collect_runs(make_runs(page.parent)), "Results")
    dom = browse(f"file://{page}#run-3", tmp_path, "--dump-dom")
    assert re.search(r'<details id="run-3" open', dom)
    assert "<img" not in dom and dom.count("<script>") == 1
    shot = tmp_path / "shot.png"
    browse(f"file://{page}", tmp_path, f"--screenshot={shot}")
    assert shot.stat().st_size > 20_000  # an empty page of this size has 8 kB
