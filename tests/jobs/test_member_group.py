"""Sweeps as stages of pipelines: what is refused, which member is best, what failures mean."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import chain
from jobs.cluster import Cluster
from jobs.errors import ConfigError, RunError
from jobs.member_group import Best, MemberGroup, find_best, link_best, make_group, unfinished
from jobs.node import NodeFacts
from jobs.pipeline import Pipeline, Stage, load_pipeline
from jobs.pipeline_launch import Planned, Record, launch_pipeline, render_graph, stage_rows
from jobs.run_folder import RunFolder, write_json_atomic
from jobs.signals import SignalPipe
from jobs.spec import Resources
from jobs.submit import Place
from tests.slurm.toy_members import make_place, starts_of, state_of

YAML = """
name: tuned
stages:
  pretrain: {kind: pretrain, command: train, config: p.yaml}
  finetune:
    kind: finetune
    command: train
    config: f.yaml
    overrides: ["init.file=${pretrain.run}"]
    sweep: {grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}
    best: {metric: egomcq/inter}
  evaluate:
    kind: evaluate
    command: eval
    config: e.yaml
    overrides: ["init.file=${finetune.best}"]
"""


def load(tmp_path: Path, text: str = YAML) -> Pipeline:
    path = tmp_path / "tuned.yaml"
    path.write_text(text)
    return load_pipeline(path)


def test_a_sweep_has_a_line_per_member(tmp_path: Path) -> None:
    stage = load(tmp_path).stage("finetune")
    assert (stage.best, stage.skips_failed) == (Best("egomcq/inter", "max"), False)
    assert stage.lines[1] == ("init.file=${pretrain.run}", "optim.lr=1e-5", "seed=1")
    assert len(stage.lines) == 4
    listed = YAML.replace("{grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}", '["optim.lr=1e-5,3e-5"]')
    words = [("optim.lr=1e-5",), ("optim.lr=3e-5",)]
    assert list(load(tmp_path, listed).stage("finetune").members) == words
    chosen = YAML.replace(
        "{grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}",
        "{list: [{a: '${other.run}'}, {a: '${pretrain.run}'}]}\n    failed_members: skip",
    ).replace("stages:\n", "stages:\n  other: {kind: pretrain, command: train, config: o.yaml}\n")
    stage = load(tmp_path, chosen).stage("finetune")
    assert (stage.after, stage.skips_failed) == (("pretrain", "other"), True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("${finetune.best}", "${finetune.run}", r"a sweep of many runs: \$\{finetune.best\}"),
        ("${pretrain.run}", "${pretrain.best}", r"a single run: \$\{pretrain.run\}"),
        ("    best: {metric: egomcq/inter}\n", "", "that stage needs best: {metric"),
        ("metric: egomcq/inter", "mode: min", "best: metric missing"),
        ("metric: egomcq/inter", "metric: x, mode: maximum", "did you mean 'max'"),
        ("    best:", "    failed_members: ignore\n    best:", "failed_members: unknown way"),
        ("optim.lr: [1e-5, 3e-5]", "init.file: [a, b]", "init.file: both given and swept"),
        ("{grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}", "{gird: {a: 1}}", "did you mean 'grid'"),
        ("{grid: {optim.lr: [1e-5, 3e-5], seed: 0..1}}", "[]", "nothing to vary"),
        ("seed: 0..1", "seed: 0..999", "a sweep of 2000 runs: at most 256"),
        ("config: p.yaml", "config: p.yaml, best: {metric: x}", "only a stage with sweep:"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in YAML
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, YAML.replace(old, new, 1))


def test_values_of_a_sweep_cannot_be_given_by_flag(tmp_path: Path) -> None:
    changed = load(tmp_path).override(["finetune.optim.wd=0"])
    assert changed.stage("finetune").lines[0][1:] == ("optim.wd=0", "optim.lr=1e-5", "seed=0")
    with pytest.raises(ConfigError, match=r"optim\.lr: both given and swept"):
        load(tmp_path).override(["finetune.optim.lr=1"])


# ---- the best one


def make_members(folder: Path, **values: object) -> list[Path]:
    """Finished runs, by name, with a value of the metric `m`; None: failed, no result."""
    runs: list[Path] = []
    for name, value in values.items():
        run = RunFolder(folder / "finetune" / name)
        runs.append(run.path)
        run.write_state("failed" if value is None else "done", reason="told to")
        if value is not None:
            write_json_atomic(run.result_json, {"metrics": {"m": value, "other": 1.0}})
    return runs


def group_of(folder: Path, runs: list[Path], *best: str, skips: bool = False) -> MemberGroup:
    asked = Best(*best) if best else None
    return make_group(runs, asked, folder / "best", "tuned.finetune", skips_failed=skips)


def test_the_best_member_is_the_first_with_the_extreme_finite_value(tmp_path: Path) -> None:
    runs = make_members(tmp_path, a=1, b=3.0, c=3.0, d=float("nan"), e=None)
    assert find_best(group_of(tmp_path, runs, "m")) == (runs[1], 3.0)
    assert find_best(group_of(tmp_path, runs, "m", "min")) == (runs[0], 1.0)
    with pytest.raises(RunError, match="no best of 5 runs: unknown metric: 'n'"):
        find_best(group_of(tmp_path, runs, "n"))
    with pytest.raises(RunError, match="no finite number in any of 1 runs"):
        find_best(group_of(tmp_path, runs[3:4], "m"))


def test_the_choice_stands_and_its_path_is_known_before_it_is_made(tmp_path: Path) -> None:
    runs = make_members(tmp_path, a=1.0, b=2.0)
    group = group_of(tmp_path, runs, "m")
    assert MemberGroup.from_json(json.loads(json.dumps(group.to_json()))) == group
    assert group_of(tmp_path, runs, "m", "min").link != group.link
    assert group.link is not None and group.link.name.startswith("tuned.finetune-")
    assert link_best(group) == runs[1].resolve()
    write_json_atomic(RunFolder(runs[0]).result_json, {"metrics": {"m": 9.0}})
    assert link_best(group) == runs[1].resolve()
    assert (group.link / "result.json").is_file() and not group.link.readlink().is_absolute()
    assert link_best(group_of(tmp_path, runs)) is None


def test_failed_members_are_dispensable_only_where_that_is_said_and_one_is_done(
    tmp_path: Path,
) -> None:
    runs = make_members(tmp_path, a=1.0, b=None)
    folders = [RunFolder(path) for path in runs]
    late = [each.path for each in unfinished(folders, [group_of(tmp_path, runs, "m")])]
    assert late == runs[1:]
    assert unfinished(folders, [group_of(tmp_path, runs, "m", skips=True)]) == []
    folders[1].write_state("running")
    assert len(unfinished(folders, [group_of(tmp_path, runs, "m", skips=True)])) == 1
    none = make_members(tmp_path, c=None, d=None)
    group = group_of(tmp_path, none, "m", skips=True)
    assert len(unfinished([RunFolder(path) for path in none], [group])) == 2


def child_of(folder: Path, runs: list[Path], group: MemberGroup) -> RunFolder:
    child = RunFolder(folder / "evaluate" / "x")
    facts = {"parents": [str(path) for path in runs], "groups": [group.to_json()]}
    write_json_atomic(child.run_json, facts)
    child.claim_attempt(1, "t", 0)
    for path in runs:
        RunFolder(path).claim_attempt(1, "t", 0)
    return child


def may_start(run: RunFolder) -> bool:
    with SignalPipe() as signals:
        return chain.may_start(run, NodeFacts(executor="debug", job_id="1"), "t", signals)


@pytest.mark.parametrize("skips", [True, False])
def test_who_comes_after_a_failed_member_starts_only_where_it_may(
    tmp_path: Path, skips: bool
) -> None:
    runs = make_members(tmp_path, a=1.0, b=None)
    group = group_of(tmp_path, runs, "m", skips=skips)
    child = child_of(tmp_path, runs, group)
    RunFolder(runs[1]).write_state("failed", reason="no memory", attempt=1)
    assert may_start(child) == skips
    assert group.link is not None and group.link.is_symlink() == skips
    if not skips:
        assert "finetune/b is failed: no memory" in child.read_state()["reason"]


def test_without_the_metric_nothing_starts_and_the_reason_names_those_there_are(
    tmp_path: Path,
) -> None:
    runs = make_members(tmp_path, a=1.0)
    child = child_of(tmp_path, runs, group_of(tmp_path, runs, "mm"))
    assert not may_start(child)
    state = child.read_state()
    assert (state["state"], state["cause"]) == ("cancelled", "parent")
    assert "unknown metric: 'mm'; did you mean 'm'" in state["reason"]


# ---- launched on this machine

FIRST = Stage("first", "stage", "train", "none.yaml", ("steps=1",), module="toy_member")
SWEEP = Stage(
    *("tune", "stage", "train", "none.yaml", ("need=${first.run}/result.json",)),
    module="toy_member",
    members=(("steps=2",), ("steps=5", "fail=1"), ("steps=4",)),
    best=Best("steps"),
)
LAST = Stage("last", "stage", "train", "n.yaml", ("need=${tune.best}/result.json",))
LAST = replace(LAST, module="toy_member")


def launch(place: Place, *stages: Stage, start_at: str | None = None) -> list[Planned]:
    pipeline = Pipeline("toy", stages).override(())
    ask = {each.name: (each.config, Resources()) for each in stages}
    return launch_pipeline(
        pipeline, Cluster("local"), place, "debug", lambda stage: ask[stage.name], start_at
    )


@pytest.mark.slow
def test_a_pipeline_goes_on_from_the_best_member_of_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    place = make_place(tmp_path)
    record = Record(place.runs, "toy")
    planned = launch(place, FIRST, SWEEP, LAST)
    names = ["first", "tune[steps=2]", "tune[steps=5,fail=1]", "tune[steps=4]", "last"]
    assert [each.name for each in planned] == names
    states = ["done", "done", "failed", "done", "not started"]
    assert [row.state for row in stage_rows(record)] == states
    lenient = launch(place, FIRST, replace(SWEEP, skips_failed=True), LAST, start_at="last")
    rows = stage_rows(record)
    assert [row.state for row in rows] == ["done", "done", "failed", "done", "done"]
    assert all(row.is_well for row in rows)
    assert [row.reason for row in rows if row.reason.startswith("the best")] == [rows[3].reason]
    assert rows[3].reason == "the best: steps 4"
    assert "reads the best (max steps of 3) from" in render_graph(lenient)
    (place.runs / "mended").touch()
    again = launch(place, FIRST, SWEEP, LAST)
    assert [state_of(each.run.path) for each in again] == ["done"] * 5
    assert [starts_of(each.run.path) for each in again] == [[1], [1], [1, 2], [1], [1]]
    rows = stage_rows(record)
    assert rows[2].reason == "the best: steps 5" and rows[3].reason == ""
