"""From `evaluate.py --suite` to an array of benchmarks, and one table of their results."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.array_launch import launch_array, render_array
from jobs.errors import ConfigError, JobsError
from jobs.request import judging_words, make_request
from jobs.run_folder import read_json
from jobs.spec import JobSpec
from jobs.suite import Suite, SuiteTable, build_suite_table, load_suite
from jobs.sweep_request import follow_runs, report

TABLES = ".tables"


def run_suite(home: Path, flags: Mapping[str, Any]) -> int:
    """Evaluate one checkpoint on all benchmarks of a suite, as one job array.

    Args:
        home: the project's root.
        flags: the launcher's; `suite` is the name, `checkpoint` the weights or None.

    Returns:
        The exit code: 0; 2 for what the user has to change; when followed 1 if a run was not done.
    """
    try:
        return _run_suite(home, flags)
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run_suite(home: Path, flags: Mapping[str, Any]) -> int:
    for flag in ("config", "sweep", "sweep_file", "forecast"):
        if flags.get(flag):
            raise ConfigError(f"--{flag.replace('_', '-')} does not go with --suite")
    suite = load_suite(home, flags["suite"])
    requests = [
        make_request(home, "evaluate", "eval", {**flags, "config": benchmark.config})
        for benchmark in suite.benchmarks
    ]
    first = requests[0]
    specs = [
        _member(request.spec, suite, benchmark.name)
        for request, benchmark in zip(requests, suite.benchmarks, strict=True)
    ]
    parallel = flags.get("parallel")
    judging = judging_words(specs[0].arguments, with_files=not flags.get("dry_run"))
    place = replace(first.place, check=judging)
    if flags.get("dry_run"):
        print(render_array(specs, first.cluster, place, first.executor, parallel))
        return 0
    row = str(flags.get("name") or _row_name(flags.get("checkpoint"), suite))
    if flags.get("table"):
        return _show(suite, row, _newest_runs(place.runs / "evaluate", specs), place.runs)
    launched = launch_array(specs, first.cluster, place, first.executor, parallel)
    code = report(launched, first.executor)
    if flags.get("follow"):
        code = follow_runs(launched.runs) or code
    if flags.get("follow") or len(launched.plan.done) == len(launched.plan.members):
        return _show(suite, row, launched.runs, place.runs) or code
    print("table       the same command with --table, once they are done")
    return code


def _member(spec: JobSpec, suite: Suite, benchmark: str) -> JobSpec:
    """One benchmark's run: of the recipe's evaluations this one."""
    command, *rest = spec.arguments
    words = (command, "--only", benchmark, *rest)
    return replace(spec, name=f"{suite.name}.{benchmark}", arguments=words)


def _row_name(checkpoint: object, suite: Suite) -> str:
    return Path(str(checkpoint)).name if checkpoint else f"weights of {suite.name}'s recipes"


def _newest_runs(folder: Path, specs: Sequence[JobSpec]) -> list[Path]:
    """Runs of the same work, with whatever code: the newest that is done, or one that is not."""
    found: list[Path] = []
    for spec in specs:
        runs = [path for path in folder.glob(f"{spec.name}-*") if _does(path, spec)]
        done = [path for path in runs if (path / "result.json").exists()]
        newest = sorted(done, key=lambda path: (path / "result.json").stat().st_mtime_ns)
        found.append(newest[-1] if newest else folder / spec.name)
    return found


def _does(run: Path, spec: JobSpec) -> bool:
    facts = read_json(run / "run.json")
    there: dict[str, Any] = facts["spec"] if facts else {}
    return there.get("arguments") == list(spec.arguments)


def _show(suite: Suite, row: str, runs: Sequence[Path], folder: Path) -> int:
    """Print the table and write it as markdown; 1 if a benchmark has no result."""
    table = build_suite_table(suite, row, runs)
    print(f"\n{table.text()}\n")
    print(f"table       {_write(suite, row, table, runs, folder)}")
    if table.missing:
        print(f"no result yet of {', '.join(table.missing)}", file=sys.stderr)
    return 1 if table.missing else 0


def _write(suite: Suite, row: str, table: SuiteTable, runs: Sequence[Path], folder: Path) -> Path:
    lines = [table.markdown(), "inputs, by SHA-256:", ""]
    for benchmark, run in zip(suite.benchmarks, runs, strict=True):
        result: dict[str, Any] = read_json(run / "result.json") or {}
        hashes: dict[str, str] = result.get("inputs", {})
        lines += [f"- {benchmark.name}: {key} {hashes[key]}" for key in sorted(hashes)]
    digest = hashlib.sha256(row.encode()).hexdigest()[:8]
    path = folder / TABLES / f"{suite.name}-{digest}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
