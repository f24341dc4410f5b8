"""The batch shell's last word for a member: `python -m jobs.array_step ARRAY TOKEN STATUS`.

Finds the member's run, which an agent that died early may not have made, and finishes that.
"""

from __future__ import annotations

import os
import sys

from jobs import after_step
from jobs.array import find_place, prepare_member
from jobs.errors import JobsError
from jobs.node import read_node_facts


def main(array_dir: str, token: str, step_status: str) -> int:
    """Finish the member that this job is; returns the exit code for the job."""
    node = read_node_facts({**os.environ, "SUBMITIT_EXECUTOR": "slurm"})
    try:
        place = find_place(array_dir, token, int(os.environ["SLURM_ARRAY_TASK_ID"]))
        run = prepare_member(place, node)
    except JobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return after_step.main(str(run.path), place.token, step_status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
