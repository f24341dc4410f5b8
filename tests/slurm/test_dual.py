"""The dual encoders' day on the real Slurm, as `make soak` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus
from tests.slurm.configuration import Settings
from tests.slurm.conftest import bring_up_or_skip
from tests.slurm.dual import show_day

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.timeout(2 * 3600),  # seven trainings, beside all else that soaks
]


def test_every_benchmark_is_learned_to_twice_chance(
    testbed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = bring_up_or_skip(Settings(testbed_folder / "dual"))
    monkeypatch.setenv("SLURM_CONF", str(local.settings.slurm_conf))
    try:
        render_corpus(SyntheticConfig(), tmp_path / "synthetic", workers=2)
        assert show_day(tmp_path, tmp_path / "synthetic")
    finally:
        local.down()
