"""Our models, losses and data rules against EgoVLP's stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import (
    checks_data,
    checks_datasets,
    checks_metrics,
    checks_models,
    checks_text,
    checks_training,
)
from tests.parity.golden import Families, golden_files, names, run_family

FAMILIES: Families = [
    ("video_tower", checks_models.check_video_tower),
    ("vit_init", checks_models.check_vit_init),
    ("dual_encoder", checks_models.check_dual_encoder),
    ("temporal_inflation", checks_models.check_temporal_inflation),
    ("distributed_egonce", checks_training.check_distributed_egonce),
    ("losses", checks_training.check_egovlp_losses),
    ("optimizer", checks_training.check_optimizer),
    ("metrics", checks_metrics.check_metrics),
    ("frame_sampling", checks_data.check_frame_sampling),
    ("transforms", checks_data.check_video_transforms),
    ("egoclip_items", checks_data.check_egoclip_items),
    ("tokenisation", checks_text.check_tokenisation),
    ("charades_meta", checks_datasets.check_charades_meta),
    ("video_chunk", checks_datasets.check_video_chunk),
    ("dense_features", checks_datasets.check_dense_features),
    ("lr_schedule", checks_training.check_lr_schedule),
    ("monitor_policy", checks_training.check_monitor_policy),
    ("state_dict_keys_full", checks_models.check_state_dict_keys_full),
]

FILES = golden_files("egovlp")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_egovlp_golden_outputs_are_reproduced(path: Path) -> None:
    run_family(path, FAMILIES)
