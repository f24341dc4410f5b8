from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.agreement import REFERENCE, TOLERANCE, VARIANTS, largest_difference, train


@pytest.mark.slow
def test_sharded_and_checkpointed_training_agrees_with_plain_ddp(project: Path) -> None:
    run = (project, "configs/debug/smoke.yaml", 4, 0)
    expected = train(*run, *REFERENCE[1:])
    assert len(expected) == 4
    name, processes, overrides = VARIANTS[-1]
    assert "FSDP2" in name
    assert largest_difference(train(*run, processes, overrides), expected) < TOLERANCE
