"""Hand a batch job to Slurm through submitit: fast, and exactly once although Slurm stumbles.

submitit takes longer to import than all the rest of a launch takes: `warm_up` has a child import it
while its parent copies the code. submitit's own pause of 0.2 s between submissions is replaced by
one that grows only when the controller complains. A submission whose answer was lost may have been
taken all the same, so the queue is asked before it is repeated.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from jobs import slurm
from jobs.errors import SubmitError

logger = logging.getLogger(__name__)

# submitit counts timeouts by a guess and gives up after this many; the budgets are ours.
_NO_SUBMITIT_BUDGET = 1_000_000

# What Slurm says when its controller is overloaded, restarting or away for a moment.
_PASSING = (
    *("Socket timed out", "Unable to contact slurm controller", "Zero Bytes were transmitted"),
    *("Transport endpoint is not connected", "Connection refused", "Connection reset"),
    *("temporarily unable to accept job", "Unexpected message received", "try again later"),
)
FIRST_WAIT_SEC = 1.0
PATIENCE_SEC = 90.0


class UnclearSubmissionError(SubmitError):
    """Slurm may or may not have taken the job: its run stays, the ledger finds the job later."""


def submit_script(
    folder: Path, parameters: Mapping[str, Any], function: Callable[[], object]
) -> str:
    """Queue one batch job that calls `function` on each of its nodes.

    Args:
        folder: takes submitit's files: script, pickle, output.
        parameters: of submitit's `update_parameters`; `comment` has to be this submission's own.
        function: pickled; its module must be in the snapshot.

    Returns:
        Slurm's job id.

    Raises:
        SubmitError: with Slurm's words if it refuses or stays away.
        UnclearSubmissionError: if it does not say whether it has the job.
    """
    if _child is not None and _child.owner == os.getpid():
        return _child.submit(folder, parameters, function)
    return _submit_patiently(folder, parameters, function)


def warm_up() -> None:
    """Start the child that submits. Only for a process without threads: it forks."""
    global _child
    if _child is None and "submitit" not in sys.modules and slurm.is_installed():
        _child = _Child()


def _submit_patiently(
    folder: Path, parameters: Mapping[str, Any], function: Callable[[], object]
) -> str:
    wait, end = FIRST_WAIT_SEC, time.monotonic() + PATIENCE_SEC
    while True:
        try:
            return _submit_once(folder, parameters, function)
        except SubmitError as error:
            if not any(words in str(error) for words in _PASSING):
                raise
            trouble = error
        logger.warning("%s; trying again", trouble)
        found, is_known = None, False
        while not is_known:
            import random  # at random: launchers that failed together do not come back together

            time.sleep(wait * random.uniform(0.75, 1.25))
            wait = min(wait * 2, PATIENCE_SEC / 4)
            found, is_known = _look_up(str(parameters["comment"]))
            if time.monotonic() > end and not found:
                raise _give_up(trouble, is_known=is_known) from trouble
        if found:
            return found


def _look_up(comment: str) -> tuple[str | None, bool]:
    """Return the job with this comment, and whether Slurm has answered at all."""
    try:
        return slurm.find_by_comment(comment), True
    except SubmitError as error:
        logger.debug("%s", error)
        return None, False


def _give_up(trouble: SubmitError, *, is_known: bool) -> SubmitError:
    text = f"{trouble} (for {PATIENCE_SEC:g} s)"
    if is_known:
        return SubmitError(text)
    return UnclearSubmissionError(
        f"{text}; whether it has the job is not known: launch again when Slurm answers"
    )


def _submit_once(
    folder: Path, parameters: Mapping[str, Any], function: Callable[[], object]
) -> str:
    import submitit  # heavy, and only where something is submitted
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with slurm.outside_any_job():
            executor = submitit.SlurmExecutor(folder, max_num_timeout=_NO_SUBMITIT_BUDGET)
            executor.update_parameters(**parameters)
            return executor.submit(function).job_id
    except (FailedJobError, FailedSubmissionError) as error:
        raise SubmitError(f"Slurm: {str(error).strip()}") from error
    except RuntimeError as error:  # submitit without srun on the PATH
        raise SubmitError(str(error)) from error


class _Child:
    """A process that has submitit. It ends with its parent, but not in the middle of a job."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            _serve(theirs.makefile("rb"), theirs.makefile("wb"))
        theirs.close()
        self._answers, self._requests = ours.makefile("rb"), ours.makefile("wb")

    def submit(
        self, folder: Path, parameters: Mapping[str, Any], function: Callable[[], object]
    ) -> str:
        request = (dict(os.environ), folder, dict(parameters), function)
        try:
            pickle.dump(request, self._requests)
            self._requests.flush()
            answer = pickle.load(self._answers)
        except (EOFError, OSError) as error:
            raise UnclearSubmissionError(
                "the process that submits was killed; launch again to see what became of the job"
            ) from error
        if isinstance(answer, SubmitError):
            raise answer
        return str(answer)


_child: _Child | None = None


def _serve(requests: BinaryIO, answers: BinaryIO) -> NoReturn:
    """Answer submissions until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the launcher's matter
    status = 1
    try:
        _import_early()
        while True:
            environ, folder, parameters, function = pickle.load(requests)
            os.environ.clear()
            os.environ.update(environ)
            try:
                answer: str | SubmitError = _submit_patiently(folder, parameters, function)
            except SubmitError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, OSError):
        status = 0  # the launcher has left
    finally:
        os._exit(status)  # buffers and exit handlers are the parent's


def _import_early() -> None:
    import submitit  # noqa: F401  # pyright: ignore[reportUnusedImport]

    import jobs.agent  # noqa: F401  # pyright: ignore[reportUnusedImport]
