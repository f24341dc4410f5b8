"""From the sweep flags to many runs, and what to print of them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.array_launch import Launched, launch_array, render_array
from jobs.cluster import Cluster
from jobs.errors import ConfigError
from jobs.run_folder import RunFolder
from jobs.spec import JobSpec
from jobs.standing import FINAL
from jobs.submit import Place
from jobs.sweep import expand_sweep

_POLL_SEC = 2.0


def run_sweep(
    spec: JobSpec, cluster: Cluster, place: Place, executor: str, flags: Mapping[str, Any]
) -> int:
    """Launch the runs that `--sweep` and `--sweep-file` make of one.

    Args:
        spec: what all members share.
        cluster: the profile.
        place: where; its check is that of a member without arguments.
        executor: slurm, local or debug.
        flags: the launcher's.

    Returns:
        The exit code: 0; 2 if not all could be queued; when followed 1 if a run was not done.
    """
    file = flags.get("sweep_file")
    members = expand_sweep(flags.get("sweep") or (), Path(file).expanduser() if file else None)
    fixed = {word.partition("=")[0] for word in flags.get("overrides") or ()}
    if both := fixed & {word.partition("=")[0] for word in members[0]}:
        raise ConfigError(f"{', '.join(sorted(both))}: both given and swept")
    specs = [replace(spec, arguments=(*spec.arguments, *words)) for words in members]
    parallel = flags.get("parallel")
    if flags.get("dry_run"):
        print(render_array(specs, cluster, place, executor, parallel))
        return 0
    launched = launch_array(specs, cluster, place, executor, parallel)
    code = report(launched, executor)
    if flags.get("follow"):
        return follow_runs(launched.runs) or code
    return code


def report(launched: Launched, executor: str) -> int:
    """Print what the launch came to; returns the exit code."""
    plan = launched.plan
    counts = {"queued": launched.queued, "at work": len(plan.live), "done": len(plan.done)}
    left = len(plan.members) - sum(counts.values())
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    print(f"{len(plan.members)} runs: {words}" + (f", {left} not queued" if left else ""))
    print(f"run folders {launched.folder}")
    if launched.array is not None:
        print(f"members     {launched.array / 'index.jsonl'}")
    if launched.jobs and executor == "slurm":
        print(f"arrays      {' '.join(launched.jobs)} (scancel takes these numbers)")
    elif launched.jobs and executor == "local":
        print(f"process     {launched.jobs[0]} (kill ends the sweep)")
    if launched.refusal:
        print(f"error: {left} of the runs were refused: {launched.refusal}", file=sys.stderr)
        print("launch the same sweep again to queue what is missing", file=sys.stderr)
        return 2
    return 0


def follow_runs(runs: Sequence[Path], poll_sec: float = _POLL_SEC) -> int:
    """Print how many runs are in which state, as it changes, until all have ended.

    Returns:
        0 if all are done, 1 if one ended otherwise, 130 if the reader left.
    """
    shown = ""
    try:
        while True:
            states = Counter(RunFolder(path).read_state().get("state", "queued") for path in runs)
            words = ", ".join(f"{states[state]} {state}" for state in sorted(states))
            if words != shown:
                shown = words
                print(words, flush=True)
            if sum(states[state] for state in FINAL) == len(runs):
                return 0 if states["done"] == len(runs) else 1
            time.sleep(poll_sec)
    except KeyboardInterrupt:
        print("\nthe runs go on; the same command shows how they stand")
        return 130
