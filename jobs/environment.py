"""Names of the environment variables through which jobs speaks to the ranks."""

from __future__ import annotations

import os

# The names that the trained program reads.
RUN_DIR = "EGOVL_RUN_DIR"
ATTEMPT = "EGOVL_ATTEMPT"
STOP_FILE = "EGOVL_STOP_FILE"
HOME = "EGOVL_HOME"
# What a rank is to check of its node before it begins, and where to write it; json.
PREFLIGHT = "EGOVL_PREFLIGHT"
# Set by jobs.rank: where the rank says what it is doing, in this node's memory.
HEARTBEAT_FILE = "EGOVL_HEARTBEAT_FILE"
# For jobs.rank only: the log of a rank, with {local_rank} in it, and the link to rank 0's.
RANK_LOG = "EGOVL_RANK_LOG"
MAIN_LOG = "EGOVL_MAIN_LOG"


def code_first(snapshot: str) -> dict[str, str]:
    """Return the PYTHONPATH with which Python finds the snapshot's code before any other."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and path != snapshot]
    return {"PYTHONPATH": os.pathsep.join([snapshot, *others])}
