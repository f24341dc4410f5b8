"""A question to one of Slurm's programs: asked now, answered when somebody waits for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from jobs.errors import SubmitError


class Query:
    """A program of Slurm's at work; any number may be under way at once.

    Args:
        argv: the program and its arguments.
        timeout_sec: how long `wait` waits.

    Raises:
        SubmitError: if there is no such program.
    """

    def __init__(self, argv: Sequence[str], timeout_sec: float = 30) -> None:
        self._argv, self._timeout_sec = list(argv), timeout_sec
        self._result: subprocess.CompletedProcess[str] | None = None
        # a list of an array's members is cut off after 64 characters otherwise
        env = {**os.environ, "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                self._argv, stdin=nothing, stdout=pipe, stderr=pipe, text=True, env=env
            )
        except FileNotFoundError as error:
            raise SubmitError(f"{argv[0]} is not on this machine's PATH: no Slurm here") from error

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Return the whole answer, the same one each time.

        Raises:
            SubmitError: if there is none in time.
        """
        if self._result is not None:
            return self._result
        try:
            output, message = self._process.communicate(timeout=self._timeout_sec)
        except BaseException as error:
            self._process.kill()
            self._process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            words = f"{' '.join(self._argv)}: no answer in {self._timeout_sec:g} s"
            raise SubmitError(words) from error
        code = self._process.returncode
        self._result = subprocess.CompletedProcess(self._argv, code, output, message)
        return self._result
