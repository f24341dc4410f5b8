"""A pipeline on this machine: `python -m jobs.local_pipeline RECORD` runs its stages in order.

A stage whose parents are not done is left out. Ended by SIGTERM it ends the stage that runs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.cluster import Cluster
from jobs.errors import JobsError
from jobs.member_group import MemberGroup, unfinished
from jobs.node import is_alive, process_start
from jobs.run_folder import RunFolder
from jobs.snapshot import Snapshot
from jobs.spec import JobSpec
from jobs.submit import Place, launch_copy

logger = logging.getLogger(__name__)

_LOOK_SEC = 0.2


def run_stages(facts: Mapping[str, Any], executor: str) -> None:
    """Run the stages of a pipeline's record, each once its parents are done.

    Args:
        facts: the record.
        executor: local, or debug: in this process.
    """
    place = Place(Path(facts["home"]), Path(facts["runs"]), Path(), tuple(facts["argv"]))
    snapshot = Snapshot(Path(facts["snapshot"]), facts["snapshot_hash"])
    is_told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: is_told.append(number))
    for stage in facts["stages"]:
        parents = [RunFolder(Path(path)) for path in stage["after"]]
        groups = [MemberGroup.from_json(values) for values in stage.get("groups", ())]
        late = [each.path.name for each in unfinished(parents, groups)]
        if late:
            logger.info("stage %s is not started: %s not done", stage["name"], ", ".join(late))
        elif stage["spec"] is not None and not is_told:
            spec = JobSpec.from_json(stage["spec"])
            try:
                launched = launch_copy(
                    spec, Cluster("local"), place, executor, snapshot, after=parents, groups=groups
                )
            except JobsError as error:
                logger.error("stage %s: %s", stage["name"], error)
                continue
            if executor != "debug" and launched.state in ("queued", "live"):
                _wait_for(int(launched.job_id), is_told)
    signal.signal(signal.SIGTERM, before)


def _wait_for(pid: int, is_told: list[int]) -> None:
    started, is_passed_on = process_start(pid), False
    while started is not None and is_alive(pid, started):
        if is_told and not is_passed_on:
            is_passed_on = True
            os.kill(pid, signal.SIGTERM)
        time.sleep(_LOOK_SEC)


def main(record: str) -> int:
    """Run the pipeline."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    run_stages(json.loads(Path(record).read_text(encoding="utf-8")), "local")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
