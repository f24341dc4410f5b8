"""Count what is asked of Slurm: its programs behind wrappers that write every call down."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("squeue", "sacct", "scontrol", "scancel", "sinfo", "sbatch")


@dataclass(frozen=True)
class CallCounter:
    """A folder for the front of PATH, and the file of calls."""

    folder: Path
    calls: Path

    @staticmethod
    def make(folder: Path) -> CallCounter:
        """Write the wrappers of all programs that are here."""
        counter = CallCounter(folder / "counted", folder / "calls")
        counter.folder.mkdir(parents=True)
        counter.calls.write_text("")
        for name in PROGRAMS:
            real = shutil.which(name)
            if real is None:
                continue
            wrapper = counter.folder / name
            line = f'echo "$(date +%s.%N) {name} $*" >> {counter.calls}'
            wrapper.write_text(f'#!/bin/sh\n{line}\nexec {real} "$@"\n')
            wrapper.chmod(0o755)
        return counter

    @property
    def environment(self) -> dict[str, str]:
        """What a counted command needs."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    def taken(self) -> list[str]:
        """The calls since the last time, as `program arguments`."""
        lines = self.calls.read_text().splitlines()
        self.calls.write_text("")
        return [line.split(" ", 1)[1] for line in lines]

    def most_in_a_minute(self) -> int:
        """The most calls in any minute so far; none may be taken away before."""
        times = [float(line.split()[0]) for line in self.calls.read_text().splitlines()]
        return max((sum(t <= u < t + 60 for u in times) for t in times), default=0)
