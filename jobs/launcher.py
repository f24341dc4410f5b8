"""The first step of a launcher: start what takes long before everything else is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.slurm import ask_ahead
from jobs.submitter import warm_up


def run_request(home: Path, kind: str, command: str, flags: Mapping[str, Any]) -> int:
    """Do what a launcher was asked for: `jobs.request.run_request`, sooner."""
    if flags.get("executor") in (None, "auto", "slurm") and not flags.get("dry_run"):
        warm_up()
        ask_ahead()
    from jobs import request  # meanwhile

    return request.run_request(home, kind, command, flags)
