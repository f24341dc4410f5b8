"""Our grounding model, metrics and data rules against GroundNLQ's stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import (
    checks_grounding,
    checks_grounding_data,
    checks_grounding_spans,
    checks_grounding_training,
)
from tests.parity.golden import Families, golden_files, names, run_family

FAMILIES: Families = [
    ("blocks", checks_grounding.check_blocks),
    ("model_", checks_grounding.check_model),
    ("labels", checks_grounding.check_labels),
    ("losses", checks_grounding.check_losses),
    ("nms", checks_grounding_spans.check_nms),
    ("decode", checks_grounding_spans.check_decode),
    ("eval", checks_grounding_spans.check_eval),
    ("ensemble", checks_grounding_spans.check_ensemble),
    ("reformat", checks_grounding_data.check_reformat),
    ("narration", checks_grounding_data.check_narration),
    ("dataset_jitter", checks_grounding_data.check_dataset),
    ("dataset", checks_grounding_data.check_dataset),
    ("optim_headgroup", checks_grounding_training.check_optim),
    ("optim", checks_grounding_training.check_optim),
    ("state_dict_shapes_", checks_grounding.check_state_dict_shapes),
    ("config_defaults", checks_grounding_training.check_config_defaults),
    ("configs_merged", checks_grounding_training.check_configs_merged),
    ("clip_text", checks_grounding_data.check_clip_text),
    ("text", checks_grounding_data.check_text),
]

FILES = golden_files("groundnlq")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_groundnlq_golden_outputs_are_reproduced(path: Path) -> None:
    run_family(path, FAMILIES)
