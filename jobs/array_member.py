"""Array members by the names that people know them by, also before they have a run folder.

A member makes its folder as it starts. Until then its name stands in the index of its launch, and
its job `<array>_<i>` follows from the array's number in the ledger. Who wants to stop one that has
not begun makes its folder in its place: from there on it is a run like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.array import (
    ArrayFolder,
    Member,
    Place,
    array_of_token,
    list_launches,
    member_token,
    prepare_member,
)
from jobs.errors import RunError
from jobs.ledger import Ledger, comment_tag
from jobs.node import NodeFacts
from jobs.run_folder import RunFolder

# What a member that is about to make its own folder may be by then.
_STARTING = ("PENDING", "CONFIGURING", "RUNNING")


@dataclass(frozen=True)
class ArrayMember:
    """A member of a launch.

    Attributes:
        kind: of its run.
        folder: name of its run folder.
        position: in the index, counted from 0.
        chunk_size: members per Slurm array of this launch.
        executor: slurm or local.
    """

    array: ArrayFolder
    kind: str
    folder: str
    position: int
    chunk_size: int
    executor: str

    @property
    def run(self) -> RunFolder:
        """Its run, whose folder may not be there yet."""
        return RunFolder(self.array.path.parent.parent / self.kind / self.folder)

    @property
    def has_begun(self) -> bool:
        """Whether it has made its folder."""
        return self.run.run_json.exists()

    def begin(self) -> RunFolder:
        """Make the run folder of a member that waits in Slurm's queue, as itself would.

        Raises:
            RunError: if no job of Slurm's queue is this member.
            SubmitError: if Slurm does not answer.
        """
        if self.executor != "slurm":
            raise RunError(f"{self.folder} has not begun: end the process of its sweep instead")
        chunk, task = divmod(self.position, self.chunk_size)
        array_id = self._array_id(chunk)
        job_id = f"{array_id}_{task}"
        job = slurm.show_job(job_id) if array_id is not None else None
        if (job or {}).get("JobState") not in _STARTING:
            raise RunError(
                f"{self.folder} has not begun, and no job will start it: launch it again"
            )
        token = member_token(self.array.token(chunk), task)
        place = Place(self.array, chunk, self.position, token)
        return prepare_member(place, NodeFacts(executor="slurm", job_id=job_id))

    def _array_id(self, chunk: int) -> str | None:
        token = self.array.token(chunk)
        line = Ledger(self.array.path.parent.parent).last_line(token)
        return line.get("job_id") or slurm.find_by_comment(comment_tag(token))


def waiting_members(runs: Path) -> list[ArrayMember]:
    """Return the members that have not begun; one that was queued again is the newest launch's."""
    found: dict[Path, ArrayMember] = {}
    for array, shared, members in list_launches(runs):
        for member in _members(array, shared, members):
            if not member.has_begun:
                found.setdefault(member.run.path, member)
    return list(found.values())


def member_of_job(runs: Path, token: str, task: int) -> ArrayMember | None:
    """Return the member that a task of the chunk with this token is; None if there is none."""
    array, chunk = array_of_token(runs, token)
    if not array.index.exists():
        return None
    shared = array.read_shared()
    members = _members(array, shared, array.read_members())
    position = chunk * int(shared["chunk_size"]) + task
    return members[position] if position < len(members) else None


def _members(
    array: ArrayFolder, shared: Mapping[str, Any], members: Sequence[Member]
) -> list[ArrayMember]:
    kind, size = str(shared["facts"]["kind"]), int(shared["chunk_size"])
    executor = str(shared["executor"])
    return [
        ArrayMember(array, kind, member.folder, position, size, executor)
        for position, member in enumerate(members)
    ]
