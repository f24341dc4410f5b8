"""What `metrics.jsonl` files said, by size and time: only changed ones are read again."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.metrics_file import RunMetrics, read_metrics

logger = logging.getLogger(__name__)

CACHE_NAME = ".collect.json"
_SCHEMA = 1


@dataclass
class MetricsCache:
    """Metrics of all runs in one folder.

    Attributes:
        entries: path -> [mtime in ns, size, fields of `RunMetrics`].
        is_changed: whether there is something to save.
    """

    path: Path
    entries: dict[str, list[Any]]
    is_changed: bool = False

    def read(self, path: str) -> RunMetrics:
        """Return the metrics of a file; raises OSError if it cannot be opened."""
        state = os.stat(path)
        entry = self.entries.get(path)
        if entry is not None and entry[:2] == [state.st_mtime_ns, state.st_size]:
            return RunMetrics(**entry[2])
        metrics = read_metrics(Path(path))
        self.entries[path] = [state.st_mtime_ns, state.st_size, asdict(metrics)]
        self.is_changed = True
        return metrics

    def save(self) -> None:
        """Write what is new; a folder that cannot be written only costs time."""
        if not self.is_changed:
            return
        try:
            handle, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f"{CACHE_NAME}-")
            with open(handle, "w", encoding="ascii") as file:
                file.write(json.dumps({"schema": _SCHEMA, "entries": self.entries}))
            os.replace(beside, self.path)
        except OSError as error:
            logger.info("metrics are not remembered: %s", error)


def load_metrics_cache(runs: Path) -> MetricsCache:
    """Read the cache of a folder of runs; a missing or damaged one is empty."""
    path = runs / CACHE_NAME
    try:
        values = json.loads(path.read_bytes())
        if values["schema"] == _SCHEMA:
            return MetricsCache(path, values["entries"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # every file is read again
    return MetricsCache(path, {})
