from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from jobs.collect import collect
from jobs.errors import ConfigError
from jobs.result_table import ResultTable, TableRequest, build_table
from tests.jobs.run_folders import eval_line, make_run, train_line


def config(seed: int = 0, lr: float = 3e-5, **more: str) -> str:
    lines = [f"{key}: {value}" for key, value in more.items()]
    return "\n".join(
        ["model:", "  width: 768", "optim:", f"  lr: {lr}", *lines, f"seed: {seed}", ""]
    )


def make_sweep(runs: Path) -> None:
    for lr in (1e-5, 3e-5):
        for seed in (0, 1, 2):
            score = {1e-5: 60.0, 3e-5: 70.0}[lr] + seed
            lines = [eval_line(50, score + 5, 30.0 + seed), eval_line(100, score, 40.0 - seed)]
            name = f"pretrain/base_{lr:g}-0000000{seed}"
            make_run(
                runs,
                name,
                [*lines, train_line(100, 1.0 + seed)],
                {"state": "done"},
                {"egomcq/inter_video": score, "egomcq/intra_video": 40.0 - seed},
                config=config(seed, lr),
            )


def table(runs: Path, **wanted: Any) -> ResultTable:
    return build_table(collect(runs), TableRequest(**wanted))


def cells(table: ResultTable, name: str) -> list[Any]:
    place = [column.name for column in table.columns].index(name)
    return [line.cells[place] for line in table.lines]


def names(table: ResultTable) -> list[str]:
    return [line.rows[0].name for line in table.lines]


def test_only_the_config_keys_that_differ_are_columns(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    found = table(tmp_path)
    assert [c.name for c in found.columns if c.role == "config"] == ["optim.lr", "seed"]
    assert cells(found, "optim.lr") == [1e-5, 1e-5, 1e-5, 3e-5, 3e-5, 3e-5]
    alone = build_table(collect(tmp_path, name="*3e-05-00000001"), TableRequest())
    assert [c for c in alone.columns if c.role == "config"] == []


def test_a_key_that_only_one_run_has_is_a_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", config=config())
    make_run(tmp_path, "pretrain/b", config=config(ema="0.99"))
    found = table(tmp_path)
    assert [c.name for c in found.columns if c.role == "config"] == ["ema"]
    assert cells(found, "ema") == [None, 0.99]


def test_kinds_are_not_compared_with_each_other(tmp_path: Path) -> None:
    make_run(tmp_path, "pretrain/a", config=config(0))
    make_run(tmp_path, "finetune/b", config=config(1, 1e-3))
    assert [c for c in table(tmp_path).columns if c.role == "config"] == []


def test_runs_that_differ_in_the_seed_are_one_line_with_mean_and_deviation(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path)
    found = table(tmp_path, group=True)
    assert cells(found, "runs") == [3, 3] and cells(found, "seeds") == ["0 1 2", "0 1 2"]
    assert cells(found, "name") == ["base_1e-05", "base_3e-05"]
    assert [c.name for c in found.columns if c.role == "config"] == ["optim.lr"]
    spread = cells(found, "egomcq/inter_video")[1]
    assert spread.mean == pytest.approx(71) and spread.runs == 3
    assert spread.deviation == pytest.approx(statistics.stdev([70, 71, 72]))
    assert spread.best_mean == pytest.approx(76)
    assert cells(found, "loss")[0].mean == pytest.approx(0.5)


def test_means_are_over_finished_runs_and_the_state_says_what_is_missing(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    lines = [eval_line(10, 1.0, 1.0)]
    state = {"state": "failed", "cause": "crash"}
    make_run(tmp_path, "pretrain/base_3e-05-0000000f", lines, state, config=config(9))
    found = table(tmp_path, group=True)
    assert cells(found, "runs") == [4, 3]
    assert cells(found, "state") == ["3 done, 1 failed", "done"]
    assert cells(found, "egomcq/inter_video")[0].mean == pytest.approx(71)
    assert cells(found, "step") == [10, 100]


def test_a_queued_run_joins_the_group_of_its_arguments(tmp_path: Path) -> None:
    words = ("train", "--config", "a.yaml")
    for seed in (0, 1):
        make_run(
            tmp_path, f"pretrain/a{seed}", config=config(seed), arguments=(*words, f"seed={seed}")
        )
    make_run(tmp_path, "pretrain/q", state={"state": "queued"}, arguments=(*words, "seed=2"))
    make_run(tmp_path, "pretrain/other", state={"state": "queued"}, arguments=(*words, "x=2"))
    make_run(tmp_path, "pretrain/lone1")
    make_run(tmp_path, "pretrain/lone2")
    found = table(tmp_path, group=True)
    assert sorted(cells(found, "runs")) == [1, 1, 1, 3]
    assert "0 1 2" in cells(found, "seeds")


def test_evaluations_give_their_metrics_to_the_run_they_evaluated(tmp_path: Path) -> None:
    lines = [eval_line(100, 90.0, 50.0)]
    make_run(tmp_path, "pretrain/p-00000001", lines, {"state": "done"}, commits=[50, 100])
    for name, file in (
        ("ek-1", "checkpoint: /elsewhere/runs/pretrain/p-00000001/ckpt/step-100"),
        ("mcq-2", "init:\n  file: runs/pretrain/p-00000001"),
    ):
        metric = {"ek-1": "ek100_mir/map", "mcq-2": "egomcq/inter_video"}[name]
        make_run(tmp_path, f"evaluate/{name}", metrics={metric: 31.0}, config=f"{file}\n")
    found = table(tmp_path)
    assert names(found) == ["ek-1", "mcq-2", "p-00000001"]
    assert [score and score.last for score in cells(found, "ek100_mir/map")] == [31.0, None, 31.0]
    assert cells(found, "egomcq/inter_video")[2].last == 90.0  # its own value stays
    assert found.remarks == ["pretrain/p-00000001: ek100_mir/map from evaluate/ek-1"]


def test_a_pivot_has_a_line_a_model_and_a_column_a_benchmark(tmp_path: Path) -> None:
    for run in ("p-00000001", "q-00000002"):
        lines = [eval_line(100, 90.0, 50.0)]
        make_run(tmp_path, f"pretrain/{run}", lines, {"state": "done"}, commits=[50, 100])
    make_run(tmp_path, "pretrain/silent", state={"state": "queued"})
    evaluations = {
        "a": ("runs/pretrain/p-00000001/ckpt/step-100", {"egomcq/inter_video": 93.0}),
        "b": ("runs/pretrain/p-00000001/ckpt/step-50", {"egomcq/inter_video": 60.0}),
        "c": ("/weights/released.pth", {"ek100_mir/map": 30.5}),
        "d": ("/weights/released.pth", {"egomcq/inter_video": 94.0}),
    }
    for name, (file, metrics) in evaluations.items():
        make_run(tmp_path, f"evaluate/{name}", metrics=metrics, config=f"checkpoint: {file}\n")
    make_run(
        tmp_path, "evaluate/e", state={"state": "failed", "cause": "crash", "reason": "disk full"}
    )
    found = table(tmp_path, pivot=True)
    shown = {
        name: {
            c.name: cell.last
            for c, cell in zip(found.columns, line.cells, strict=True)
            if c.role == "metric" and cell
        }
        for name, line in zip(names(found), found.lines, strict=True)
    }
    assert shown == {
        "released.pth": {"ek100_mir/map": 30.5, "egomcq/inter_video": 94.0},
        "p-00000001": {"egomcq/inter_video": 93.0, "egomcq/intra_video": 50.0},
        "p-00000001 @50": {"egomcq/inter_video": 60.0},
        "q-00000002": {"egomcq/inter_video": 90.0, "egomcq/intra_video": 50.0},
    }
    assert any("2 run(s) without any metric" in remark for remark in found.remarks)
    assert any("failed: crash: disk full" in remark for remark in found.remarks)


def test_evaluations_of_a_group_are_a_group(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, f"pretrain/p-0000000{seed}", config=config(seed), commits=[5])
        make_run(
            tmp_path,
            f"evaluate/ek-0000000{seed}",
            metrics={"ek/map": 30.0 + seed},
            config=f"init:\n  file: runs/pretrain/p-0000000{seed}\nseed: 0\n",
        )
    found = table(tmp_path, group=True)
    assert cells(found, "name") == ["ek", "p"] and cells(found, "runs") == [2, 2]
    assert [spread.mean for spread in cells(found, "ek/map")] == [30.5, 30.5]
    pivot = table(tmp_path, group=True, pivot=True)
    assert cells(pivot, "name") == ["p"]
    assert cells(pivot, "ek/map")[0].deviation == pytest.approx(math.sqrt(0.5))


def test_best_shows_every_metric_at_the_step_where_one_was_best(tmp_path: Path) -> None:
    lines = [eval_line(10, 80, 1), eval_line(20, 95, 2), eval_line(30, 90, 3)]
    make_run(tmp_path, "pretrain/a", lines, {"state": "stopped"})
    make_run(tmp_path, "pretrain/b", [eval_line(10, 99, 7), eval_line(20, 50, 8)])
    make_run(tmp_path, "pretrain/c", [train_line(1, 1.0)])
    found = table(tmp_path, best="inter_video")
    assert names(found) == ["b", "a", "c"]
    assert [s and (s.last, s.step) for s in cells(found, "egomcq/inter_video")] == [
        (99, 10),
        (95, 20),
        None,
    ]
    assert [s and s.last for s in cells(found, "egomcq/intra_video")] == [7, 2, None]
    lowest = table(tmp_path, best="egomcq/inter_video:min")
    assert [s and s.last for s in cells(lowest, "egomcq/inter_video")] == [50, 80, None]
    assert names(lowest) == ["b", "a", "c"]


def test_the_better_end_follows_the_name_or_the_flag(tmp_path: Path) -> None:
    for name, error in (("a", 0.5), ("b", 0.1)):
        make_run(tmp_path, f"evaluate/{name}", metrics={"pnr/error_sec": error})
    assert names(table(tmp_path, best="error_sec")) == ["b", "a"]
    assert names(table(tmp_path, best="error_sec:max")) == ["a", "b"]


def test_lines_are_sorted_by_any_column_and_gaps_come_last(tmp_path: Path) -> None:
    for name, value in (("a", 2.0), ("b", math.nan), ("c", 3.0), ("d", None)):
        make_run(tmp_path, f"evaluate/{name}", metrics=None if value is None else {"x/top1": value})
    for sort, first in (("top1", ["c", "a"]), ("x/top1:asc", ["a", "c"])):
        found = names(table(tmp_path, sort=sort))
        assert found[:2] == first and set(found[2:]) == {"b", "d"}
    assert names(table(tmp_path, sort="name:desc")) == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"best": "inter_vide"}, "did you mean 'egomcq/inter_video'"),
        ({"best": "egomcq/*"}, "more than one"),
        ({"sort": "egomcq"}, "unknown column to sort by"),
        ({"metrics": ("map",)}, "unknown metric"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    tmp_path: Path, wanted: dict[str, Any], message: str
) -> None:
    make_run(tmp_path, "pretrain/a", [eval_line(1, 2, 3)])
    with pytest.raises(ConfigError, match=message):
        table(tmp_path, **wanted)


def test_metrics_are_chosen_in_the_order_asked(tmp_path: Path) -> None:
    make_run(tmp_path, "evaluate/a", metrics={"ek/map": 1.0, "ek/ndcg": 2.0, "mcq/inter": 3.0})
    found = table(tmp_path, metrics=("inter", "ek/*"))
    chosen = [column.name for column in found.columns if column.role == "metric"]
    assert chosen == ["mcq/inter", "ek/map", "ek/ndcg"]


def test_unfinished_runs_say_how_far_they_came_and_why_they_ended(tmp_path: Path) -> None:
    lines = [{**train_line(7, 1.0), "steps": 50}]
    make_run(tmp_path, "pretrain/a", lines, {"state": "failed", "cause": "crash", "reason": "oom"})
    found = table(tmp_path)
    assert cells(found, "state") == ["failed: crash"] and cells(found, "step") == [(7, 50)]
    assert found.remarks == ["pretrain/a: failed: crash: oom"]


def test_members_of_a_sweep_stand_together(tmp_path: Path) -> None:
    for number, array in enumerate(("2222222299", "1111111199", "2222222299")):
        folder = make_run(tmp_path, f"pretrain/r{number}", [train_line(1, 1.0, time=1 + number)])
        (folder / "run.json").write_text(f'{{"schema": 1, "array": "/runs/.arrays/{array}"}}')
    found = table(tmp_path)
    assert cells(found, "collection") == ["11111111", "22222222", "22222222"]
    assert names(found) == ["r1", "r0", "r2"]


def test_stages_of_a_pipeline_stand_together_in_their_order(tmp_path: Path) -> None:
    for run in ("pretrain/p-1", "pretrain/lone", "evaluate/e-1", "finetune/f-1"):
        make_run(tmp_path, run, [train_line(1, 1.0)])
    order = ("pretrain/p-1", "finetune/f-1", "evaluate/e-1")
    record = {"stages": [{"run": f"/elsewhere/runs/{run}"} for run in order]}
    (tmp_path / ".pipelines").mkdir()
    (tmp_path / ".pipelines/main.json").write_text(json.dumps(record))
    (tmp_path / ".pipelines/torn.json").write_text("{")
    found = table(tmp_path)
    assert names(found) == ["lone", "p-1", "f-1", "e-1"]
    assert cells(found, "collection") == ["", "main", "main", "main"]
    assert found.remarks[0].startswith(".pipelines/torn.json: not a whole record")
