"""The torchrun child of a node agent: start it, look at it, end it with everything below it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from jobs.node import descendants
from jobs.rank import die_with_parent


def knows_flag(flag: str) -> bool:
    """Return whether the installed torchrun has a flag, without importing torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    source = Path(found.origin).parent / "distributed" / "run.py"
    return source.is_file() and f'"{flag}"' in source.read_text(encoding="utf-8")


def _prepare_child() -> None:
    """Set the child's signals: Slurm may send USR2 to every process of the step."""
    for ignored in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)  # survives exec: protects ffmpeg and loaders
    for default in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        signal.signal(default, signal.SIG_DFL)
    # an agent that is killed leaves no torchrun: told so, it lets the ranks save and end
    die_with_parent(signal.SIGTERM)


class TorchrunChild:
    """A running torchrun, in a session of its own."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.time()
        self._ranks: list[int] = []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )

    @property
    def pid(self) -> int:
        """Process id of torchrun."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask torchrun to end its ranks."""
        if self.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End torchrun and all its ranks and loaders now."""
        below = descendants(self.pid)
        for pid in [self.pid, *below] if self.poll() is None else below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


class Echo:
    """Copies what rank 0 writes into its log to this process's output."""

    def __init__(self, link: Path, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._file: BinaryIO | None = None

    def copy(self) -> None:
        """Copy what is new; nothing while rank 0 has no log on this node."""
        if self._file is None:
            try:
                if not os.readlink(self._link).startswith(self._prefix):
                    return
                self._file = self._link.open("rb")
            except OSError:
                return
        if text := self._file.read():
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()

    def close(self) -> None:
        """Copy the rest."""
        self.copy()
        if self._file is not None:
            self._file.close()
            self._file = None
