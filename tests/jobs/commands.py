"""`python -m jobs` as a person types it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def jobs(
    *words: str, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command from the project's folder."""
    argv = [sys.executable, "-m", "jobs", *words]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )


def jobs_json(*words: str, env: Mapping[str, str] | None = None) -> Any:
    """Return what `--json` prints."""
    return json.loads(jobs(*words, "--json", env=env).stdout)
