"""Steps and times of attempts, found without reading a whole file."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from jobs.step_spans import StepSpans


def brute(lines: list[dict[str, int]], attempt: int) -> tuple[int, int] | None:
    steps = [line["step"] for line in lines if line["attempt"] == attempt]
    return (steps[0], steps[-1]) if steps else None


def test_bisection_finds_what_reading_everything_finds(tmp_path: Path) -> None:
    draw = random.Random(0)
    for case in range(30):
        lines: list[dict[str, int]] = []
        attempt = 1
        for _ in range(draw.randint(0, 3000)):
            if draw.random() < 0.01:
                attempt += draw.randint(1, 2)
            lines.append({"step": len(lines) + 1, "attempt": attempt, "time": len(lines)})
        path = tmp_path / f"{case}.jsonl"
        text = [json.dumps(line) + "\n" for line in lines]
        if text:
            text.insert(draw.randrange(len(text)), '{"step": 3, "atte\n')  # a killed writer's
        path.write_text("".join(text) + draw.choice(["", '{"step": 9, "att']))
        with StepSpans(path) as spans:
            for number in range(1, attempt + 2):
                found = spans.find(number)
                wanted = brute(lines, number)
                assert (found and (found.step_first, found.step_last)) == wanted, (case, number)


def test_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = {"step": 0, "loss": 0.123456789, "attempt": 1, "time": 0.5}
    with path.open("w") as file:
        for step in range(200_000):
            file.write(json.dumps({**record, "step": step, "attempt": 1 + step // 50_000}) + "\n")

    class Counting(StepSpans):
        num_bytes = 0

        def _read(self, start: int, size: int) -> bytes:
            text = super()._read(start, size)
            self.num_bytes += len(text)
            return text

    with Counting(path) as spans:
        found = spans.find(3)
        assert found is not None
        assert (found.step_first, found.step_last) == (100_000, 149_999)
        assert spans.num_bytes < os.stat(path).st_size / 10


def test_missing_and_empty_files_have_no_spans(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for name in ("empty", "absent"):
        with StepSpans(tmp_path / name) as spans:
            assert spans.find(1) is None
            assert spans.last_evaluation() == {}


def test_the_newest_evaluation_is_found(tmp_path: Path) -> None:
    lines = [
        {"kind": "eval", "step": 5, "name": "mcq", "metrics": {"inter": 1.0}},
        {"kind": "train", "step": 6, "loss": 0.5},
        {"kind": "eval", "step": 6, "name": "mcq", "metrics": {"inter": 2.0}},
        {"kind": "train", "step": 7, "loss": 0.5},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with StepSpans(path) as spans:
        assert spans.last_evaluation()["metrics"] == {"inter": 2.0}
