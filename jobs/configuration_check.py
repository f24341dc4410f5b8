"""Have the program itself judge its configuration before anything is queued.

The judge is a process of its own, `python -m <module> check ...`, in the code copy. A good verdict
is remembered in the store, and holds as long as everything is the same that it depends on: code,
arguments, interpreter, packages, and the files and folders that the judged configuration names.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jobs.environment import HOME, code_first
from jobs.errors import ConfigError
from jobs.provenance import find_packages
from jobs.snapshot import Snapshot

CHECKED = ".checked"
_SCHEMA = 1
_LONGEST_PATH = 4096


class ConfigurationCheck:
    """A judgement that was started, or is known, and is waited for.

    Args:
        module: of the program.
        arguments: after `-m <module>`; empty for a program that judges nothing.
        snapshot: the code.
        home: the project's root, where relative data paths start.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], snapshot: Snapshot, home: Path
    ) -> None:
        self._home = home
        self._verdict: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        if not arguments:
            return
        self._verdict = _verdict_path(module, arguments, snapshot, home)
        if _still_holds(self._verdict):
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=snapshot.path,
            env={**os.environ, **code_first(str(snapshot.path)), HOME: str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Return when the configuration is known to be right.

        Raises:
            ConfigError: with the program's words.
        """
        if self._process is None or self._verdict is None:
            return
        output, message = self._process.communicate()
        if self._process.returncode != 0:
            raise ConfigError(message.strip() or output.strip())
        _remember(self._verdict, output, self._home)


def _verdict_path(module: str, arguments: Sequence[str], snapshot: Snapshot, home: Path) -> Path:
    ours = sorted((k, v) for k, v in os.environ.items() if k.startswith(("EGOVL_", "PYTHON")))
    depends = [module, list(arguments), str(home), sys.executable, sys.version, ours]
    text = json.dumps([*depends, find_packages()])
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    return snapshot.path.parent / CHECKED / f"{snapshot.tree_hash}.{key}.json"


def _still_holds(verdict: Path) -> bool:
    try:
        values = json.loads(verdict.read_bytes())
    except (OSError, ValueError):
        return False
    if values.get("schema") != _SCHEMA:
        return False
    return all(_look(path) == state for path, state in values["paths"].items())


def _remember(verdict: Path, output: str, home: Path) -> None:
    """Keep a good verdict, with the state of every path that the printed configuration names."""
    words = {line.rpartition(": ")[2].strip().removeprefix("- ") for line in output.splitlines()}
    paths = [word.strip("'\"") for word in words if "/" in word and len(word) < _LONGEST_PATH]
    states = {path: _look(path) for path in (os.path.join(home, each) for each in paths)}
    facts = {"schema": _SCHEMA, "paths": {path: state for path, state in states.items() if state}}
    verdict.parent.mkdir(exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=verdict.parent, prefix=".new-")
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.replace(beside, verdict)


def _look(path: str) -> list[int]:
    """Return what tells whether a path is as it was; empty where nothing is."""
    try:
        state = os.stat(path)
    except OSError:
        return []
    # what is in a folder may change: the judge only asks whether it is there
    is_folder = os.path.isdir(path)
    return [state.st_ino] if is_folder else [state.st_ino, state.st_size, state.st_mtime_ns]
