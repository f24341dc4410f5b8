from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.errors import ConfigError, RunError
from jobs.pipeline import (
    Pipeline,
    Stage,
    fill_references,
    load_pipeline,
    stand_in_references,
)
from jobs.pipeline_launch import (
    Planned,
    Record,
    check_stages,
    launch_pipeline,
    render_graph,
    render_rows,
    stage_rows,
)
from jobs.snapshot import take_snapshot
from jobs.spec import Resources
from jobs.submit import Place
from tests.slurm.toy_members import make_place, starts_of, state_of
from tests.slurm.waiting import wait_for

YAML = """
name: lavila
stages:
  evaluate:
    kind: evaluate
    command: eval
    config: e.yaml
    overrides: [init.origin=egovl, 'init.file=${pretrain.run}']
  pretrain:
    kind: pretrain
    command: train
    config: p.yaml
    overrides: ["extra=${narrate.run}/narrations.jsonl"]
    resources: {nodes: 4, time: 48h, exclude: "n1,n2"}
    after: prepare
  narrate: {kind: narrate, command: narrate, config: n.yaml, after: [prepare]}
  prepare: {kind: prepare, command: prepare, config: d.yaml}
"""


def load(tmp_path: Path, text: str = YAML) -> Pipeline:
    path = tmp_path / "pipe.yaml"
    path.write_text(text)
    return load_pipeline(path)


def test_stages_come_after_those_they_wait_for_and_read_from(tmp_path: Path) -> None:
    pipeline = load(tmp_path)
    assert [each.name for each in pipeline.stages] == ["prepare", "narrate", "pretrain", "evaluate"]
    pretrain = pipeline.stage("pretrain")
    assert pretrain.after == ("prepare", "narrate")
    assert pretrain.resources == {"nodes": 4, "time": "48h", "exclude": "n1,n2"}
    assert pipeline.following("narrate") == {"narrate", "pretrain", "evaluate"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("after: prepare", "after: preapre", "did you mean 'prepare'"),
        ("${pretrain.run}", "${pertrain.run}", "did you mean 'pretrain'"),
        ("${pretrain.run}", "${pretrain.runs}", "only \\${stage.run}"),
        ("${narrate.run}/", "${narrate.run}/../", "only \\${stage.run}"),
        ("config: d.yaml", "config: d.yaml, after: evaluate", "in a circle: evaluate, narrate"),
        ("    command: eval\n", "", "stage evaluate: command missing"),
        ("nodes: 4", "nodes: four", "nodes: not a whole number: 'four'"),
        ("nodes: 4", "node: 4", "did you mean 'nodes'"),
        ("init.origin=egovl", "init.origin", "not key=value: 'init.origin'"),
        ("kind: evaluate", "kin: evaluate", "did you mean 'kind'"),
        ("name: lavila", "name: La Vila", "lower case letters"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in YAML
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, YAML.replace(old, new))


def test_values_of_a_stage_are_changed_by_its_name(tmp_path: Path) -> None:
    changed = load(tmp_path).override(["pretrain.optim.lr=1e-4", "evaluate.x=${prepare.run}"])
    assert changed.stage("pretrain").overrides[-1] == "optim.lr=1e-4"
    assert changed.stage("evaluate").after == ("pretrain", "prepare")
    for word in ("pertrain.lr=1", "lr=1"):
        with pytest.raises(ConfigError):
            load(tmp_path).override([word])


def test_references_become_run_folders(tmp_path: Path) -> None:
    word = "data={a: ${a.run}, b: ${b.run}/n.jsonl}"
    runs = {"a": Path("/r/a-1"), "b": Path("/r/b-2")}
    assert fill_references(word, runs) == "data={a: /r/a-1, b: /r/b-2/n.jsonl}"
    shown = stand_in_references(word, tmp_path)
    assert shown == f"data={{a: {tmp_path}/a, b: {tmp_path}/b/n.jsonl}}"
    assert (tmp_path / "a").is_dir() and (tmp_path / "b/n.jsonl").is_file()


# ---- launched on this machine


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    return make_place(tmp_path)


def stage(name: str, *overrides: str, module: str = "toy_member") -> Stage:
    return Stage(name, "stage", "train", "none.yaml", tuple(overrides), module=module)


FIRST = stage("first")
SECOND = stage("second", "fail=1", "need=${first.run}/result.json")
THIRD = stage("third", "need=${second.run}/result.json")


def launch(
    place: Place, *stages: Stage, executor: str = "debug", start_at: str | None = None
) -> list[Planned]:
    pipeline = Pipeline("toy", stages).override(())
    ask = {each.name: (each.config, Resources()) for each in stages}
    return launch_pipeline(
        pipeline, Cluster("local"), place, executor, lambda s: ask[s.name], start_at
    )


def states(place: Place) -> list[tuple[str, str]]:
    return [(row.name, row.state) for row in stage_rows(Record(place.runs, "toy"))]


@pytest.mark.slow
def test_a_failed_stage_stops_the_pipeline_and_the_next_launch_goes_on_from_it(
    place: Place,
) -> None:
    planned = launch(place, FIRST, SECOND, THIRD)
    assert states(place) == [("first", "done"), ("second", "failed"), ("third", "not started")]
    (place.runs / "mended").touch()
    again = launch(place, FIRST, SECOND, THIRD)
    assert [each.run.path for each in again] == [each.run.path for each in planned]
    assert states(place) == [("first", "done"), ("second", "done"), ("third", "done")]
    assert [starts_of(each.run.path) for each in planned] == [[1], [1, 2], [1]]
    table = render_rows(stage_rows(Record(place.runs, "toy")))
    assert table.splitlines()[0].split() == ["stage", "state", "step", "job", "run", "folder"]
    assert all(each.run.path.name.startswith(f"toy.{each.name}-") for each in planned)


@pytest.mark.slow
def test_kept_stages_are_taken_over_whatever_the_code_is_now(place: Place) -> None:
    first, second = launch(place, FIRST, replace(SECOND, overrides=SECOND.overrides[1:]))
    (place.home / "note.py").write_text("changed = True\n")
    kept, new = launch(place, FIRST, SECOND, start_at="second")
    assert kept.run.path == first.run.path and new.run.path != second.run.path
    assert "taken as it is" in render_graph([kept, new])
    assert starts_of(first.run.path) == [1]
    with pytest.raises(ConfigError, match="stage none has no run"):
        launch(place, stage("none"), SECOND, FIRST, start_at="second")


@pytest.mark.slow
def test_the_background_process_runs_the_stages_in_order(place: Place) -> None:
    (place.runs / "mended").parent.mkdir(parents=True)
    (place.runs / "mended").touch()
    planned = launch(place, FIRST, SECOND, THIRD, executor="local")
    with pytest.raises(RunError, match="is at work as process"):
        launch(place, FIRST, SECOND, THIRD, executor="local")
    assert states(place)[-1] == ("third", "waiting")
    wait_for(lambda: state_of(planned[-1].run.path) == "done", 60.0, "the last stage")
    assert states(place) == [("first", "done"), ("second", "done"), ("third", "done")]


def test_a_pipeline_never_launched_says_so(place: Place) -> None:
    with pytest.raises(RunError, match="was never launched"):
        stage_rows(Record(place.runs, "toy"))


def test_every_stage_is_judged_before_anything_is_queued(place: Place) -> None:
    (place.home / "judge.py").write_text(
        "import os, sys\n"
        "for word in sys.argv[4:]:\n"
        "    if not os.path.exists(word.partition('=')[2]): sys.exit(f'missing {word}')\n"
    )
    snapshot = take_snapshot(place.home, place.snapshots)
    checked = replace(place, check=("check",))

    def check(*stages: Stage) -> None:
        check_stages(Pipeline("toy", stages), checked, snapshot, lambda stage: stage.config)

    first, second = stage("first", module="judge"), replace(THIRD, module="judge")
    check(first, second)  # what it reads of another stage is stood in for
    with pytest.raises(ConfigError, match=r"none\.yaml data=/nowhere: missing data=/nowhere"):
        check(replace(first, overrides=("data=/nowhere",)), second)
