"""Launch many runs at once: those that are neither done nor at work, as few arrays as can be."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.array import ARRAYS, ArrayFolder, Member, MemberAgent, array_of_token
from jobs.batch import batch_parameters, script_text
from jobs.check_many import judge
from jobs.cluster import Cluster, slurm_parameters
from jobs.controller import controller_pid, start_controller
from jobs.errors import ConfigError, SubmitError
from jobs.ledger import Ledger, adopt_found, comment_tag
from jobs.local_array import run_members, visible_count
from jobs.provenance import write_provenance
from jobs.run_folder import RunFolder, read_json, write_json_atomic
from jobs.snapshot import Snapshot, take_snapshot
from jobs.spec import JobSpec
from jobs.standing import find_standing
from jobs.submit import (
    Place,
    check_request,
    run_facts,
    run_name,
)
from jobs.submitter import UnclearSubmissionError, submit_script

# Members whose configuration the program judges before anything is queued.
MAX_CHECKS = 32

_TAG = comment_tag("")


@dataclass(frozen=True)
class Launched:
    """What a launch of many runs came to.

    Attributes:
        folder: of all their run folders.
        plan: which members there are, in the order asked for, and which of them needed a job.
        queued: how many were submitted now.
        jobs: Slurm's array ids, or the local controller's process id.
        array: what was written down of this launch; None if there was nothing to do.
        refusal: why the rest was not queued; empty if all was.
    """

    folder: Path
    plan: Plan
    queued: int = 0
    jobs: tuple[str, ...] = ()
    array: Path | None = None
    refusal: str = ""

    @property
    def runs(self) -> list[Path]:
        """Every member's run folder, which it makes as it starts."""
        return [self.folder / member.folder for member in self.plan.members]


@dataclass(frozen=True)
class Plan:
    """Which members there are; `live` and `done` are names of folders, live ones with their job.

    Names, not paths: ten thousand paths take longer to join than all the rest.
    """

    members: list[Member]
    missing: list[Member]
    live: dict[str, str]
    done: list[str]


def launch_array(
    specs: Sequence[JobSpec],
    cluster: Cluster,
    place: Place,
    executor: str,
    parallel: int | None = None,
) -> Launched:
    """Start or go on with many runs that differ in name and arguments only.

    Args:
        specs: one per run; a double is one run. They share the first one's resources.
        cluster: the profile.
        place: where; its `check` is followed by all of a member's arguments but the first.
        executor: slurm, local or debug.
        parallel: how many may run at a time; None: no limit in Slurm, one elsewhere.

    Raises:
        JobsError: as for one launch; nothing is left if nothing was queued.
    """
    if not specs:
        raise ConfigError("no members: nothing to launch")
    if parallel is not None and parallel < 1:
        raise SubmitError(f"--parallel {parallel}: at least 1 has to run at a time")
    check_request(specs[0], executor)
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs], rules=place.rules)
    check_members(specs, place, snapshot)
    plan = _plan(specs, place, snapshot, executor)
    launched = Launched(place.runs / specs[0].kind, plan)
    if not plan.missing:
        return launched
    array = ArrayFolder(place.runs / ARRAYS / os.urandom(14).hex())
    limit, parallel = _limits(executor, len(plan.missing), parallel)
    facts = run_facts(specs[0], place, snapshot)
    shared = {"schema": 1, "executor": executor, "chunk_size": limit, "facts": facts}
    shared["sbatch"] = slurm_parameters(specs[0], cluster)
    shared["cluster"] = cluster.to_json()
    try:
        array.write(shared, plan.missing)
        write_provenance(place.home, array.provenance, list(place.argv))
        if executor == "slurm":
            sizes = _chunk_sizes(len(plan.missing), limit)
            jobs, refusal = _queue(array, specs[0], cluster, snapshot, sizes, parallel)
            queued = sum(sizes[: len(jobs)])
        else:
            jobs, refusal = [_run_locally(array, snapshot, executor, parallel or 1)], ""
            queued = len(plan.missing)
    except UnclearSubmissionError:
        raise
    except SubmitError:
        shutil.rmtree(array.path, ignore_errors=True)
        raise
    return replace(launched, queued=queued, jobs=tuple(jobs), array=array.path, refusal=refusal)


def render_array(
    specs: Sequence[JobSpec], cluster: Cluster, place: Place, executor: str, parallel: int | None
) -> str:
    """Return what `launch_array` would do: the members, and the first chunk's batch script."""
    snapshot = take_snapshot(place.home, place.snapshots, exclude=[place.runs], rules=place.rules)
    check_members(specs, place, snapshot)
    members = name_members(specs, snapshot)
    shared = set(specs[0].arguments).intersection(*(spec.arguments for spec in specs))
    lines = [f"# {len(members)} runs, in {place.runs / specs[0].kind}"]
    for each in members:
        lines.append(f"{each.folder}  {' '.join(w for w in each.arguments if w not in shared)}")
    if executor == "slurm":
        array = ArrayFolder(place.runs / ARRAYS / "LAUNCH")
        limit = slurm.array_limits()[0] if slurm.slurm_answers() else len(members)
        sizes = _chunk_sizes(len(members), limit)
        shares = _shares(sizes, parallel)
        agent = MemberAgent(str(array.path), str(snapshot.path), "TOKEN")
        parameters = _parameters(array, 0, specs[0], cluster, agent, sizes[0], shares[0])
        lines.append(f"\n# {len(sizes)} array(s); the first one's sbatch script")
        lines.append(script_text(array.chunk(0), parameters))
    return "\n".join(lines)


# ---- which members there are


def name_members(specs: Sequence[JobSpec], snapshot: Snapshot) -> list[Member]:
    """Return the members, each once; no two of them have one folder."""
    members: dict[tuple[str, tuple[str, ...]], Member] = {}
    taken: set[str] = set()
    for spec in specs:
        key = (spec.name, spec.arguments)
        if key in members:
            continue
        folder = run_name(spec, snapshot)
        while folder in taken:  # eight digits: among 10,000 members two agree once in a hundred
            spec = replace(spec, name=f"{spec.name}.b")
            folder = run_name(spec, snapshot)
        taken.add(folder)
        members[key] = Member(folder, spec.name, spec.arguments)
    return list(members.values())


def _plan(specs: Sequence[JobSpec], place: Place, snapshot: Snapshot, executor: str) -> Plan:
    members = name_members(specs, snapshot)
    kind = specs[0].kind
    folder = place.runs / kind
    there = set(os.listdir(folder)) if folder.is_dir() else set[str]()
    queue = slurm.list_queue() if executor == "slurm" else None
    adopt_found(place.runs, {comment: job_id.partition("_")[0] for job_id, comment in queue or ()})
    at_work = _local_members(place.runs) | _queued_members(place.runs, queue or ())
    ids = None if queue is None else {job_id for job_id, _ in queue}
    plan = Plan(members, [], {}, [])
    for member in members:
        job_id = at_work.get((kind, member.folder), "")
        state = "live" if job_id else "fresh"
        if member.folder in there:
            standing = find_standing(RunFolder(folder / member.folder), ids)
            # a job may linger whose run has its end written down
            if standing.state != "idle" or standing.job_id == job_id:
                state, job_id = standing.state, standing.job_id
        if state == "live":
            plan.live[member.folder] = job_id
        elif state == "done":
            plan.done.append(member.folder)
        else:
            plan.missing.append(member)
    return plan


def _queued_members(runs: Path, queue: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the (kind, folder) of the array members in the queue, and their jobs."""
    found: dict[tuple[str, str], str] = {}
    indexes: dict[str, tuple[dict[str, Any], list[Member]] | None] = {}
    for job_id, comment in queue:
        token = comment.removeprefix(_TAG)
        _, underscore, task = job_id.partition("_")
        if token == comment or not underscore or len(token) != 32:
            continue
        array, chunk = array_of_token(runs, token)
        if array.path.name not in indexes:  # the runs may be in another folder
            is_here = array.index.exists()
            read = (array.read_shared(), array.read_members()) if is_here else None
            indexes[array.path.name] = read
        index = indexes[array.path.name]
        if index is not None:
            member = index[1][chunk * int(index[0]["chunk_size"]) + int(task)]
            found[index[0]["facts"]["kind"], member.folder] = job_id
    return found


def _local_members(runs: Path) -> dict[tuple[str, str], str]:
    """Return the members that a live controller on this machine has yet to start, or runs."""
    found: dict[tuple[str, str], str] = {}
    for path in (runs / ARRAYS).glob("*/controller.json"):
        pid = controller_pid(read_json(path) or {})
        if pid is None:
            continue
        array = ArrayFolder(path.parent)
        kind = array.read_shared()["facts"]["kind"]
        found |= {(kind, each.folder): str(pid) for each in array.read_members()}
    return found


# ---- configurations


def check_members(specs: Sequence[JobSpec], place: Place, snapshot: Snapshot) -> None:
    """Have the program judge members that together show every value, up to `MAX_CHECKS` of them.

    Raises:
        ConfigError: with the program's words and the member's arguments.
    """
    if not place.check:
        return
    chosen = covering_members([spec.arguments for spec in specs])
    lines = [[*place.check, *specs[number].arguments[1:]] for number in chosen]
    judge(specs[0].module, lines, snapshot.path, place.home)


def covering_members(members: Sequence[tuple[str, ...]]) -> list[int]:
    """Return members in which every argument occurs; evenly spread where they are too many.

    Args:
        members: the arguments of each.

    Returns:
        Their numbers.
    """
    seen: set[str] = set()
    chosen: list[int] = []
    for number, words in enumerate(members):
        if number == 0 or not seen.issuperset(words):
            chosen.append(number)
            seen.update(words)
    step = max(1, len(chosen) / MAX_CHECKS)
    return [chosen[int(place * step)] for place in range(min(len(chosen), MAX_CHECKS))]


# ---- Slurm


def _limits(executor: str, count: int, parallel: int | None) -> tuple[int, int | None]:
    """Return members per array and how many run at a time."""
    if executor != "slurm":
        return count, parallel or 1
    size, jobs = slurm.array_limits()
    if size < 2:
        raise SubmitError(f"this Slurm has job arrays switched off (MaxArraySize={size})")
    if count >= jobs:
        raise SubmitError(
            f"{count} members, and this Slurm holds {jobs} jobs in all (MaxJobCount): "
            "launch the sweep in parts"
        )
    return size, parallel


def _chunk_sizes(count: int, limit: int) -> list[int]:
    """Return members per array; `limit` caps the index, so every array counts from 0."""
    return [min(limit, count - start) for start in range(0, count, limit)]


def _shares(sizes: Sequence[int], parallel: int | None) -> list[int | None]:
    """Return how many members of each chunk may run at a time: `parallel` in all."""
    if parallel is None:
        return [None] * len(sizes)
    lanes = min(parallel, len(sizes))
    base, more = divmod(parallel, lanes)
    return [base + (number % lanes < more) for number in range(len(sizes))]


def _queue(
    array: ArrayFolder,
    spec: JobSpec,
    cluster: Cluster,
    snapshot: Snapshot,
    sizes: Sequence[int],
    parallel: int | None,
) -> tuple[list[str], str]:
    """Submit chunk after chunk; returns the jobs, and why the rest was refused.

    Where fewer may run than there are chunks, a chunk waits for the one that far before it.

    Raises:
        SubmitError: if Slurm refuses the first.
    """
    jobs: list[str] = []
    ledger, launch = Ledger(array.path.parent.parent), RunFolder(array.path)
    for number, (size, share) in enumerate(zip(sizes, _shares(sizes, parallel), strict=True)):
        token = array.token(number)
        agent = MemberAgent(str(array.path), str(snapshot.path), token)
        waits_for = number - parallel if parallel is not None else -1
        dependency = f"afterany:{jobs[waits_for]}" if waits_for >= 0 else ""
        parameters = _parameters(array, number, spec, cluster, agent, size, share)
        if dependency:
            parameters["dependency"] = dependency
        ledger.submitting(launch, token, "slurm")
        try:
            jobs.append(submit_script(array.chunk(number), parameters, agent))
        except SubmitError as error:
            if not isinstance(error, UnclearSubmissionError):  # that one may have its job
                ledger.refused(launch, token, "slurm")
                shutil.rmtree(array.chunk(number), ignore_errors=True)
            if not jobs:
                raise
            return jobs, str(error)
        ledger.submitted(launch, token, "slurm", jobs[-1])
    return jobs, ""


def _parameters(
    array: ArrayFolder,
    number: int,
    spec: JobSpec,
    cluster: Cluster,
    agent: MemberAgent,
    size: int,
    share: int | None,
) -> dict[str, Any]:
    """Return submitit's parameters for one chunk."""
    parameters = batch_parameters(slurm_parameters(spec, cluster), agent)
    folder = array.chunk(number)
    throttle = "" if share is None else f"%{min(share, size)}"
    log = f"{folder}/%A_%a_0_log.out"
    extra = {"array": f"0-{size - 1}{throttle}", "output": log}
    parameters["additional_parameters"] = {**parameters["additional_parameters"], **extra}
    parameters["srun_args"] = [*parameters["srun_args"], f"--output={folder}/%A_%a_%t_log.out"]
    # submitit looks for a pickle per member; they are all the same one
    pickle = "${SLURM_ARRAY_JOB_ID}_submitted.pkl"
    name = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl"
    link = f'ln -sf "{pickle}" {shlex.quote(str(folder))}/"{name}"'
    parameters["setup"] = [*parameters["setup"], link]
    return parameters


# ---- this machine


def _run_locally(array: ArrayFolder, snapshot: Snapshot, executor: str, parallel: int) -> str:
    """Run the members here; returns the process that sees to it."""
    gpus = array.read_shared()["facts"]["spec"]["resources"]["gpus_per_node"]
    there = visible_count(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if there is not None and there < parallel * gpus:
        raise SubmitError(f"{parallel} members at a time need {parallel * gpus} GPUs, not {there}")
    if executor == "debug":
        run_members(array, executor, parallel)
        return str(os.getpid())
    argv = ["jobs.local_array", str(array.path), str(parallel)]
    facts = start_controller(argv, snapshot.path, array.path / "controller.log")
    write_json_atomic(array.controller_json, facts)
    return str(facts["pid"])
