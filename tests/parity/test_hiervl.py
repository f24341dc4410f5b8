"""Our models, losses and data rules against HierVL's stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import checks_hiervl, checks_hiervl_data
from tests.parity.golden import Families, golden_files, names, run_family

FAMILIES: Families = [
    ("aggregator", checks_hiervl.check_aggregator),
    ("model_", checks_hiervl.check_model),
    ("mil_nce", checks_hiervl.check_mil_nce),
    ("train_step", checks_hiervl.check_train_step),
    ("data", checks_hiervl_data.check_data),
    ("state_dict_keys_full", checks_hiervl.check_state_dict_keys_full),
]

FILES = golden_files("hiervl")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_hiervl_golden_outputs_are_reproduced(path: Path) -> None:
    run_family(path, FAMILIES)
