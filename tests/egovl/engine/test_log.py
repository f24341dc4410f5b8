from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egovl.engine.folder import RunFolder, Superseded, write_json
from egovl.engine.log import RunLog, evaluated_names


def scalars(run: RunFolder, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_resumed_log_purges_the_board_beyond_its_start(tmp_path: Path) -> None:
    first = RunLog(RunFolder(tmp_path, 1), 0)
    first.train([{"step": step, "steps": 9, "loss": 1.0} for step in (1, 2, 3, 4)])
    first.close()
    time.sleep(1.1)  # the board's files are ordered by the second in which they begin
    second = RunLog(RunFolder(tmp_path, 2), 2)
    second.train([{"step": 3, "steps": 9, "loss": 2.0}])
    second.close()
    run = RunFolder(tmp_path, 2)
    assert scalars(run, "train/loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(r["step"], r["attempt"]) for r in lines] == [(1, 1), (2, 1), (3, 1), (4, 1), (3, 2)]


def test_a_half_line_of_a_killed_writer_spoils_no_other_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, 2)
    run.metrics.write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    log = RunLog(run, 1)
    log.evaluation(2, "egomcq", {"intra_video": 50.0})
    log.close()
    lines = run.metrics.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["metrics"] == {"intra_video": 50.0}
    assert evaluated_names(run, 2) == {"egomcq"}
    assert evaluated_names(run, 1) == set()


def test_a_superseded_log_writes_nothing(tmp_path: Path) -> None:
    log = RunLog(RunFolder(tmp_path, 1), 0)
    write_json(tmp_path / "attempts/2/claim.json", {})
    with pytest.raises(Superseded):
        log.train([{"step": 1, "steps": 9, "loss": 1.0}])
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
