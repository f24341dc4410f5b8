"""Names of the environment variables through which jobs speaks to the ranks."""

from __future__ import annotations

# The names that the trained program reads.
RUN_DIR = "EGOVL_RUN_DIR"
ATTEMPT = "EGOVL_ATTEMPT"
STOP_FILE = "EGOVL_STOP_FILE"
HOME = "EGOVL_HOME"
# For jobs.rank only: the log of a rank, with {local_rank} in it, and the link to rank 0's.
RANK_LOG = "EGOVL_RANK_LOG"
MAIN_LOG = "EGOVL_MAIN_LOG"
