"""Many runs of one resource shape as members of Slurm job arrays.

A launch writes `runs/.arrays/<id>/index.jsonl` (its first line is what all members share, then one
line per member) and queues one array per chunk of members. Nothing else is written per member, so
a thousand are queued as fast as one: a member makes its own run folder when it starts, finding its
line by the chunk and SLURM_ARRAY_TASK_ID. From there on it is a run like any other: it stops, saves
and goes on alone, as job `<array>_<i>` or under the id of its own successor.

A chunk's token is the launch's id and the chunk's number, so what stands in the queue leads to its
index without a search.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.agent import NodeAgent
from jobs.errors import RunError
from jobs.ledger import record_job
from jobs.node import NodeFacts, read_node_facts
from jobs.run_folder import RunFolder, create_json, write_json_atomic
from jobs.spec import JobSpec
from jobs.standing import find_standing

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ARRAYS = ".arrays"

# The rest of a chunk's 32 hex digits is its number.
_ID_DIGITS = 28


@dataclass(frozen=True)
class Member:
    """One line of an index: the run folder's name, and what makes this member's spec its own."""

    folder: str
    name: str
    arguments: tuple[str, ...]

    def to_line(self) -> str:
        """Return the member's line in the index."""
        return json.dumps([self.folder, self.name, self.arguments])

    @classmethod
    def from_line(cls, line: str) -> Member:
        """Read what `to_line` wrote."""
        folder, name, arguments = json.loads(line)
        return cls(folder, name, tuple(arguments))


class ArrayFolder:
    """One launch of an array: its index, its provenance and, per chunk, submitit's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "index.jsonl"
        self.provenance = path / "provenance"
        self.controller_json = path / "controller.json"

    def chunk(self, number: int) -> Path:
        """Return the folder of a chunk's script, pickle and output."""
        return self.path / f"chunk{number}"

    def token(self, chunk: int) -> str:
        """Return the token of a chunk."""
        return f"{self.path.name}{chunk:0{32 - _ID_DIGITS}x}"

    def write(self, shared: Mapping[str, Any], members: Sequence[Member]) -> None:
        """Write the index, whole or not at all."""
        self.path.mkdir(parents=True)
        lines = [json.dumps(shared), *(member.to_line() for member in members), ""]
        beside = self.index.with_name(f".{self.index.name}")
        with beside.open("w", encoding="utf-8") as file:
            file.write("\n".join(lines))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.index)

    def read_shared(self) -> dict[str, Any]:
        """Return what all members share.

        Raises:
            RunError: if there is no index.
        """
        return json.loads(next(self._lines()))

    def read_members(self) -> list[Member]:
        """Return all members, in their order.

        Raises:
            RunError: if there is no index.
        """
        return [Member.from_line(line) for line in islice(self._lines(), 1, None)]

    def read_member(self, position: int) -> Member:
        """Return the member at a position, counted from 0.

        Raises:
            RunError: if there is no such member.
        """
        for line in islice(self._lines(), position + 1, None):
            return Member.from_line(line)
        raise RunError(f"{self.index} has no member {position}")

    def _lines(self) -> Iterator[str]:
        try:
            with self.index.open(encoding="utf-8") as file:
                yield from file
        except OSError as error:
            raise RunError(f"cannot read {self.index}: {error}") from error


def list_launches(runs: Path) -> Iterator[tuple[ArrayFolder, dict[str, Any], list[Member]]]:
    """Yield every launch of an array, what its members share and the members, the newest first."""
    indexes = [(path.stat().st_mtime, path) for path in (runs / ARRAYS).glob("*/index.jsonl")]
    for _, index in sorted(indexes, reverse=True):
        array = ArrayFolder(index.parent)
        try:
            shared, members = array.read_shared(), array.read_members()
            _ = shared["facts"]["kind"], shared["executor"], shared["chunk_size"]
        except (RunError, ValueError, KeyError, TypeError, StopIteration):
            continue  # garbage is for `gc`
        yield array, shared, members


def array_of_token(runs: Path, token: str) -> tuple[ArrayFolder, int]:
    """Return the launch and the chunk that a token names; the launch may not exist."""
    return ArrayFolder(runs / ARRAYS / token[:_ID_DIGITS]), int(token[_ID_DIGITS:], 16)


def member_token(chunk_token: str, member: int) -> str:
    """Return the token under which a member holds its run's attempts.

    Several members run on one node, whose files are named by a token's first digits.
    """
    return hashlib.sha256(f"{chunk_token} {member}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Place:
    """Where a member stands: its array, its position in the index, its token."""

    array: ArrayFolder
    chunk: int
    position: int
    token: str


def find_place(array_dir: str, token: str, task: int) -> Place:
    """Return where task `task` of the chunk with this token stands."""
    array = ArrayFolder(Path(array_dir))
    chunk = int(token[_ID_DIGITS:], 16)
    position = chunk * int(array.read_shared()["chunk_size"]) + task
    return Place(array, chunk, position, member_token(token, task))


def prepare_member(place: Place, node: NodeFacts) -> RunFolder:
    """Make a member's run folder as a launch of its own would, and take its first attempt.

    May be called by every node and every execution: what is there stays.

    Raises:
        RunError: if the index has no such member.
    """
    shared = place.array.read_shared()
    member = place.array.read_member(place.position)
    spec = replace(
        JobSpec.from_json(shared["facts"]["spec"]), name=member.name, arguments=member.arguments
    )
    run = RunFolder(place.array.path.parent.parent / spec.kind / member.folder)
    facts = {**shared["facts"], "name": spec.name, "spec": spec.to_json()}
    create_json(run.run_json, {**facts, "array": str(place.array.path)})
    if not run.spec_json(place.token).exists():
        # what a successor is submitted with: as a job of its own
        write_json_atomic(run.sbatch_json(place.token), shared["sbatch"] | {"job_name": spec.name})
        write_json_atomic(run.cluster_json(place.token), shared["cluster"])
        write_json_atomic(run.spec_json(place.token), spec.to_json())
    if node.index == 0:
        if not run.provenance.exists():
            shutil.copytree(place.array.provenance, run.provenance, dirs_exist_ok=True)
        if not run.job_json(place.token).exists():
            record_job(run, place.token, node.job_id, node.executor)
        if node.executor == "slurm":
            log = place.array.chunk(place.chunk) / f"{node.job_id}_0_log.out"
            _link(run.submission / log.name, log)
        _claim(run, place.token, node)
    return run


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target, link.parent))


def _claim(run: RunFolder, token: str, node: NodeFacts) -> None:
    """Take the run's next attempt unless somebody is at work on it, or this member has been."""
    while True:
        numbers = run.attempt_numbers()
        if any((holder := run.attempt(n).holder) and holder.token == token for n in numbers):
            return
        if numbers and find_standing(run).state in ("live", "done"):
            return
        if run.claim_attempt(max(numbers, default=0) + 1, token, node.restart, by="array"):
            return


class MemberAgent:
    """The submitted callable of an array: becomes the node agent of the member that it is.

    Attributes:
        array: folder of the launch.
        snapshot: the code copy that the ranks run in.
        token: of the chunk.
    """

    def __init__(self, array: str, snapshot: str, token: str) -> None:
        self.array = array
        self.snapshot = snapshot
        self.token = token

    def __call__(self) -> str:
        """Run this node's part of the member and return the state that it was left in."""
        return self._become()()

    def checkpoint(self) -> DelayedSubmission:
        """Continue after a stop signal that came before the agent listened."""
        delayed = self._become().checkpoint()
        delayed.function = self
        return delayed

    __submitit_checkpoint__ = checkpoint

    def last_words(self) -> list[str]:
        """Return Python's arguments for what the batch shell runs after srun."""
        return ["-m", "jobs.array_step", self.array, self.token]

    def _become(self) -> NodeAgent:
        place = find_place(self.array, self.token, int(os.environ["SLURM_ARRAY_TASK_ID"]))
        run = prepare_member(place, read_node_facts(os.environ))
        return NodeAgent(str(run.path), self.snapshot, place.token)
