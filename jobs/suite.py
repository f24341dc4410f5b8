"""A suite: the benchmarks of one table of a paper, run on one checkpoint and printed as its row.

`configs/suites/<name>.yaml`:

    benchmarks:                     each is a run: one evaluation of a recipe
      - {name: egomcq, config: configs/lavila/zero_shot_tsf_base.yaml}
      - {name: charades_ego, config: configs/lavila/charades_ego_tsf_base.yaml}
    columns:                        in the paper's order
      - {title: EgoMCQ intra, metric: egomcq/intra_video}
    published:                      the paper's rows, a value for each column or -
      - {name: LaViLa TSF-B, values: [59.9]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, unknown_name
from jobs.run_folder import read_json
from jobs.yaml_file import as_list, as_mapping, as_text, read_yaml, refuse_unknown

MISSING = "-"
_GAP = "  "


@dataclass(frozen=True)
class Benchmark:
    """One run: evaluation `name` of a recipe."""

    name: str
    config: str


@dataclass(frozen=True)
class Column:
    """One column: a metric of a result, under a title."""

    title: str
    metric: str


@dataclass(frozen=True)
class Suite:
    """Benchmarks, and how their results are laid out."""

    name: str
    benchmarks: tuple[Benchmark, ...]
    columns: tuple[Column, ...]
    published: tuple[tuple[str, tuple[str, ...]], ...]


def load_suite(home: Path, name: str) -> Suite:
    """Read `configs/suites/<name>.yaml`.

    Raises:
        ConfigError: if there is no such suite, or it is not one.
    """
    folder = home / "configs" / "suites"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(unknown_name("suite", name, known))
    path = folder / f"{name}.yaml"
    values = read_yaml(path)
    refuse_unknown(values, ("benchmarks", "columns", "published"), str(path))
    benchmarks = [
        Benchmark(*_texts(entry, ("name", "config"), f"{path}: benchmarks"))
        for entry in as_list(values.get("benchmarks"), f"{path}: benchmarks")
    ]
    columns = [
        Column(*_texts(entry, ("title", "metric"), f"{path}: columns"))
        for entry in as_list(values.get("columns"), f"{path}: columns")
    ]
    if not benchmarks or not columns:
        raise ConfigError(f"{path}: it needs benchmarks: and columns:")
    names = {benchmark.name for benchmark in benchmarks}
    for column in columns:
        if column.metric.partition("/")[0] not in names:
            raise ConfigError(f"{path}: {unknown_name('benchmark', column.metric, names)}")
    published = as_list(values.get("published"), f"{path}: published")
    rows = [_published(entry, len(columns), f"{path}: published") for entry in published]
    return Suite(name, tuple(benchmarks), tuple(columns), tuple(rows))


def _texts(entry: Any, keys: Sequence[str], where: str) -> list[str]:
    given = as_mapping(entry, where)
    refuse_unknown(given, keys, where)
    texts = [as_text(given.get(key)) for key in keys]
    if not all(texts):
        raise ConfigError(f"{where}: an entry needs {' and '.join(keys)}, found {given}")
    return [text for text in texts if text]


def _published(entry: Any, count: int, where: str) -> tuple[str, tuple[str, ...]]:
    given = as_mapping(entry, where)
    refuse_unknown(given, ("name", "values"), where)
    name, values = as_text(given.get("name")), as_list(given.get("values"), where)
    if not name or len(values) != count:
        raise ConfigError(f"{where}: {name}: {len(values)} values for {count} columns")
    return name, tuple(str(value) for value in values)


@dataclass(frozen=True)
class SuiteTable:
    """Titles, the checkpoint's row, the paper's rows; `missing` are benchmarks without a result."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    missing: tuple[str, ...]

    def text(self) -> str:
        """Return the table aligned for a terminal."""
        cells = [("", *self.titles), *((name, *values) for name, values in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            _GAP.join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        lines.insert(1, _GAP.join("-" * width for width in widths))
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table as markdown."""
        cells = [("checkpoint", *self.titles), *((name, *values) for name, values in self.rows)]
        lines = ["| " + " | ".join(line) + " |" for line in cells]
        lines.insert(1, "|---" + "|---:" * len(self.titles) + "|")
        return "\n".join(lines) + "\n"


def build_suite_table(suite: Suite, row: str, runs: Sequence[Path]) -> SuiteTable:
    """Lay out the results of a suite's runs.

    Args:
        suite: what was run.
        row: name of the row.
        runs: a run folder for each benchmark, which may not be done, or be there.
    """
    metrics: dict[str, float] = {}
    missing: list[str] = []
    for benchmark, run in zip(suite.benchmarks, runs, strict=True):
        result = read_json(run / "result.json")
        if result is None:
            missing.append(benchmark.name)
        else:
            metrics |= result.get("metrics") or {}
    values = tuple(
        f"{metrics[column.metric]:.1f}" if column.metric in metrics else MISSING
        for column in suite.columns
    )
    titles = tuple(column.title for column in suite.columns)
    return SuiteTable(titles, ((row, values), *suite.published), tuple(missing))
