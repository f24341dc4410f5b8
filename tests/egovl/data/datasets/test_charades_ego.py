from __future__ import annotations

import math
from pathlib import Path

import pytest

from egovl.data.datasets.charades_ego import CharadesEgo
from egovl.data.datasets.configs import CharadesEgoConfig
from egovl.data.prepare.charades import write_metadata
from egovl.data.types import Span

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
ROWS = [
    'AEGO,S1,Kitchen,6,7,Yes,"a script, with comma",bag,d,c002 3.20 10.10;c000 0.00 4.55,21.30\n',
    "BEGO,S1,Hall,6,7,Yes,s,bag,d,,12.10\n",
    "CEGO,S1,Hall,6,7,Yes,s,bag,d,c001 2.00 2.00;c001 2.0 5.0,9.5\n",
]
CLASSES = [
    "c000 Holding some clothes",
    "c001 Putting clothes somewhere, folded",
    "c002 Opening a door",
]


def write(root: Path, rows: list[str] = ROWS) -> None:
    (root / "test.csv").write_text(HEADER + "".join(rows))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def build(root: Path, **options: object) -> CharadesEgo:
    config = CharadesEgoConfig(
        annotations=root / "test.csv",
        classes=root / "classes.txt",
        video_root=root,
        **options,  # type: ignore[arg-type]
    )
    return config.build()


def test_a_video_has_all_its_classes_and_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = build(tmp_path)
    assert len(dataset) == 3
    assert [dataset[i].labels["action"] for i in range(3)] == [(2, 0), (), (1, 1)]
    assert dataset.label_sizes == {"action": 3}
    (clip,) = dataset[0].clips
    assert clip.span == Span(0.0, math.inf)
    assert clip.video.path == tmp_path / "AEGO.mp4"
    assert build(tmp_path, legacy_length=True)[0].clips[0].span == Span(0.0, 21.3)


def test_an_action_is_a_clip_with_its_class_and_text(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = build(tmp_path, unit="action", seek_offset=-1)
    assert len(dataset) == 3, "an action that ends where it begins is left out"
    assert dataset[0].texts == ("Opening a door",)
    assert dict(dataset[0].labels) == {"action": 2}
    assert dataset[0].clips[0].span == Span(3.2, 10.1)
    assert dataset[0].clips[0].video.seek_offset == -1
    assert dataset[2].texts == ("Putting clothes somewhere",), "cut at the comma, as published"
    assert dataset.chunk_of(0) == dataset.chunk_of(1) == "AEGO"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("c002 3.20", "c157 3.20", "video AEGO: no class 'c157'"),
        ("c002 3.20 10.10", "c002 3.20", "line 2: 'c002 3.20' is no class"),
        ("12.10", "long", "line 3: could not convert"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    write(tmp_path, [row.replace(old, new) for row in ROWS])
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


def test_the_training_table_has_a_row_per_action(tmp_path: Path) -> None:
    write(tmp_path)
    count = write_metadata(tmp_path / "test.csv", tmp_path / "classes.txt", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert count == len(lines) - 1 == 4
    assert lines[0] == "id\tcls\tt_start\tt_end\tnarration"
    assert lines[1] == "AEGO\t2\t3.2\t10.1\tOpening a door"
    assert lines[3].endswith("Putting clothes somewhere, folded")
