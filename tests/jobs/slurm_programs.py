"""Stand-ins for Slurm's programs: for what no real Slurm can be made to answer in a unit test.

They note how they were called. The real ones are in tests/slurm.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SBATCH = 'echo "Submitted batch job $(wc -l < {calls})"'
CONFIG = "MaxArraySize = {size}\\nMaxJobCount = 10000\\n"


class SlurmPrograms:
    """A folder of programs at the head of PATH, and the calls that they got."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "calls.txt"
        folder.mkdir()
        self.log.touch()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        for name in ("squeue", "srun", "sinfo", "scancel"):
            self.answer(name, "")
        self.answer("sbatch", SBATCH.format(calls=self.log))
        self.set_array_size(51)

    def answer(self, name: str, script: str) -> None:
        """Have a program note its arguments and run a shell script."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{script}\n')
        path.chmod(0o755)

    def set_array_size(self, size: int) -> None:
        self.answer("scontrol", f"printf '{CONFIG.format(size=size)}'")

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a program."""
        lines = self.log.read_text().splitlines()
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmPrograms:
    return SlurmPrograms(tmp_path / "bin", monkeypatch)
