"""Acceptance line journey-1: the demo with three seeds, and the order-blind probe.

Prints one table. The probe trains and is examined on clips whose frames are shuffled; only the
order of frames answers an intra-video question, so it has to stay within 5 points of 20 %.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.integration.demo import ROOT, say

SHUFFLED = (
    "train.loader.shuffle_frames=true",
    "evaluate.egomcq.loader.shuffle_frames=true",
)


def metrics_of(name: str) -> dict[str, float]:
    """Of the newest finished run with this name."""
    results = sorted((ROOT / "runs/pretrain").glob(f"{name}-*/result.json"))
    newest = max(results, key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())["metrics"]


def main() -> int:
    """Run, print, and fail where a figure falls short."""
    rows, ok = [], True
    for seed in (0, 1, 2):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "tests.integration.demo", "--seed", str(seed)],
            cwd=ROOT,
            check=True,
        )
        found = metrics_of(f"demo-seed{seed}")
        inter, intra = found["egomcq/inter_video"], found["egomcq/intra_video"]
        ok &= inter >= 90 and intra >= 60
        rows.append((f"seed {seed}", inter, intra, time.monotonic() - started))
    launch = ("launchers/pretrain.py", "--config", "configs/debug/demo.yaml")
    flags = ("--executor", "local", "--name", "demo-shuffled", "--follow")
    started = time.monotonic()
    subprocess.run([sys.executable, *launch, *flags, *SHUFFLED], cwd=ROOT, check=True)
    found = metrics_of("demo-shuffled")
    ok &= abs(found["egomcq/intra_video"] - 20) <= 5
    rows.append(("shuffled", *found.values(), time.monotonic() - started))
    say("\nrun        inter %   intra %   seconds")
    for name, inter, intra, seconds in rows:
        say(f"{name:10} {inter:7.1f} {intra:9.1f} {seconds:9.0f}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
