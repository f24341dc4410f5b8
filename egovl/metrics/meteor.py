"""METEOR 1.5 through its own program, as ``-l en -norm`` (LaViLa spec 6.3, Egoinstructor 6.1).

The jar, with WordNet and the paraphrase table, comes with pycocoevalcap, or from a file the user
names. An approximation under the same name would not be METEOR.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

JAR = "meteor-1.5.jar"
_TABLE = "data/paraphrase-en.gz"  # the jar looks for it beside itself
_SEPARATOR = "|||"


class MeteorMissing(RuntimeError):
    """Java, the jar or its paraphrase table is not on this machine."""


def meteor(
    references: Sequence[Sequence[str]], candidates: Sequence[str], jar: Path | None = None
) -> tuple[float, NDArray[np.float64]]:
    """The program's aggregate over all captions, which is not their mean, and each one's value.

    Raises:
        MeteorMissing: it cannot run here; says what to install.
        RuntimeError: the program ended before it answered.
    """
    program = _running(tuple(_command(jar)))
    assert program.stdin is not None and program.stdout is not None
    try:
        return _talk(program.stdin, program.stdout, references, candidates)
    except (BrokenPipeError, ValueError) as error:
        _running.cache_clear()
        program.kill()
        said = program.stderr.read().strip() if program.stderr else ""
        raise RuntimeError(f"{shlex.join(_command(jar))} gave no score: {said or error}") from error


@functools.cache
def _running(command: tuple[str, ...]) -> subprocess.Popen[str]:
    """The program, which takes seconds to read its tables: started once, it ends with its input."""
    program = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    atexit.register(_end, program)
    return program


def _end(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.communicate()


def _talk(
    ask: IO[str],
    answer: IO[str],
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
) -> tuple[float, NDArray[np.float64]]:
    facts: list[str] = []
    for truths, candidate in zip(references, candidates, strict=True):
        line = f" {_SEPARATOR} ".join(["SCORE", *map(_clean, truths), _clean(candidate)])
        facts.append(_exchange(ask, answer, line))
    ask.write(f" {_SEPARATOR} ".join(["EVAL", *facts]) + "\n")
    ask.flush()
    each = np.array([float(answer.readline()) for _ in facts])
    corpus = float(answer.readline())
    return corpus, each


def _exchange(ask: IO[str], answer: IO[str], line: str) -> str:
    ask.write(line + "\n")
    ask.flush()
    return answer.readline().strip()


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace(_SEPARATOR, " "))


def _command(jar: Path | None) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise MeteorMissing("there is no java on PATH; install a Java runtime (11 or later)")
    found = _installed_jar() if jar is None else jar
    if found is None:
        raise MeteorMissing("pip install pycocoevalcap, which brings the jar, or name a meteor_jar")
    for file in (found, found.parent / _TABLE):
        if not file.is_file():
            raise MeteorMissing(f"{file} does not exist; METEOR 1.5 holds {JAR} and {_TABLE}")
    return [java, "-Xmx2G", "-jar", str(found), "-", "-", "-stdio", "-l", "en", "-norm"]


def _installed_jar() -> Path | None:
    # found without importing the package, which would load every scorer
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((Path(folder) / "meteor" / JAR for folder in folders), None)
