from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import jobs.report
from jobs.collect import collect
from jobs.report import is_current, render_html, write_report
from jobs.result_table import TableRequest, build_table
from tests.jobs.run_folders import eval_line, make_run, train_line
from tests.jobs.test_collect import make_old

EVIL = "<script>alert(1)<!--<img onerror=x>\"'&"


class Page(HTMLParser):
    """Checks that tags nest, and keeps addresses and what scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def render(runs: Path, title: str = "Results", **wanted: bool) -> str:
    found = collect(runs)
    return render_html(found, build_table(found, TableRequest(**wanted)), title)


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def read_data(html: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(parse(html).scripts[0], parse_constant=refuse)


def make_runs(runs: Path) -> Path:
    """Write three runs of a seed group, a finetune run, one with an evil name, an empty one."""
    for number, name in enumerate(("first", "second", "third")):
        lines = [
            {**train_line(step, 5.0 - number - step / 100), "steps": 200} for step in range(1, 200)
        ]
        lines += [eval_line(step, 20 + (7, 60, 30)[number] + step / 10, 30) for step in (50, 150)]
        metrics = {"egomcq/inter_video": (50.0, 94.5, 8.5)[number]} if number != 1 else None
        make_run(
            *(runs, f"pretrain/{name}", lines, {"state": "running"}, metrics),
            commits=[100],
            config=f"optim:\n  lr: 3.0e-05\nseed: {number}\n",
        )
    name = EVIL.replace("/", "")
    evil = [{**eval_line(3, 1, 2), "name": EVIL}, train_line(4, 1.0)]
    make_run(runs, f"finetune/{name}", evil, {"state": "failed", "cause": EVIL, "reason": EVIL})
    with open(runs / f"finetune/{name}/metrics.jsonl", "a") as file:
        file.write("{half")
    (runs / f"finetune/{name}/config.yaml").write_text(f"note: '{EVIL.replace(chr(39), '')}'\n")
    make_run(runs, "finetune/empty")
    return runs


def test_page_is_well_formed_self_contained_and_escaped(tmp_path: Path) -> None:
    html = render(make_runs(tmp_path), f"Title {EVIL}")
    page = parse(html)
    assert len(page.scripts) == 3 and EVIL not in html and "<img" not in html
    assert page.addresses == []
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    data = json.loads(page.scripts[0])
    names = [dict(zip(data["fields"], row, strict=True))["name"] for row in data["rows"]]
    assert sorted(names) == sorted([EVIL, "empty", "first", "second", "third"])
    curves = [json.loads(line) for line in page.scripts[1].split("\n")]
    assert sorted(curves[names.index(EVIL)]) == sorted(
        [f"{EVIL}/inter_video", f"{EVIL}/intra_video", "loss"]
    )
    assert len(curves[names.index("first")]["loss"][0]) == 199
    assert "damaged line" in html


def test_numbers_that_json_cannot_say_are_words(tmp_path: Path) -> None:
    lines = [train_line(1, math.nan), train_line(2, math.inf)]
    make_run(tmp_path, "pretrain/a", [*lines, eval_line(2, -math.inf, math.nan)])
    html = render(tmp_path)
    data = read_data(html)
    cells = data["lines"][0][0]
    assert cells[-3] == "inf" and cells[-2][0] == "-inf" and cells[-1][0] == "nan"
    curves = json.loads(parse(html).scripts[1])
    assert curves["loss"] == [[1, 2], [None, math.inf]]


def test_groups_of_seeds_are_told_to_the_page(tmp_path: Path) -> None:
    make_runs(tmp_path)
    data = read_data(render(tmp_path))
    [group] = data["groups"]
    names = [dict(zip(data["fields"], data["rows"][row], strict=True))["name"] for row in group]
    assert sorted(names) == ["first", "second", "third"]
    grouped = read_data(render(tmp_path, group=True))
    assert grouped["isGrouped"] and [len(rows) for _, rows in grouped["lines"]] == [1, 1, 3]


def test_an_older_page_is_replaced_whole_and_readable_by_others(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", [train_line(1, 1.0)])
    page = tmp_path / "report.html"
    page.write_text("old")
    found = collect(tmp_path)
    write_report(str(page), found, build_table(found, TableRequest()), "x")
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(each.name for each in tmp_path.iterdir() if each.name[0] != ".") == [
        *("pretrain", "report.html"),
    ]
    assert page.stat().st_mode & 0o044 == 0o044


def test_a_page_that_is_still_right_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "pretrain/a", [train_line(1, 1.0)], {"state": "running"})
    make_old(folder)
    page = str(tmp_path / "report.html")

    def write(options: str = "") -> bool:
        found = collect(tmp_path)
        if is_current(page, found, options):
            return False
        write_report(page, found, build_table(found, TableRequest()), "x", options)
        return is_current(page, found, options)

    assert write() and not write() and not write()
    assert write("other options") and not write("other options")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(train_line(2, 0.25)) + "\n")
    assert write("other options") and "0.25" in Path(page).read_text()
    Path(page).unlink()
    assert write("other options")


def test_style_and_script_are_plain_and_short() -> None:
    for path in Path(jobs.report.__file__).parent.glob("page/*"):
        text = path.read_text(encoding="ascii")
        assert len(text.splitlines()) <= 500 and "innerHTML" not in text
        assert not re.search(r"</script|https?://(?!www\.w3\.org/2000/svg)", text)
