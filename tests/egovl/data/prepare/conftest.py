from __future__ import annotations

from pathlib import Path

import pytest

from egovl.data.prepare.configs import SyntheticConfig
from egovl.data.prepare.synthetic import render_corpus

SMALL = SyntheticConfig(seed=3, train_videos=4, eval_videos=6, size=32)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "corpus"
    render_corpus(SMALL, out)
    return out
