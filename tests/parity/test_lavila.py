"""Our models, losses and data rules against LaViLa's stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import (
    checks_captions,
    checks_data,
    checks_datasets,
    checks_losses,
    checks_metrics,
    checks_models,
    checks_narrator,
    checks_text,
)
from tests.parity.golden import Families, golden_files, names, run_family

FAMILIES: Families = [
    ("vclm_.*_generate", checks_narrator.check_generate),
    ("vclm_", checks_narrator.check_forward),
    ("tsf_", checks_models.check_tower),
    ("attn_pool_", checks_narrator.check_pooler),
    ("clip_inflate", checks_models.check_clip_inflate),
    ("temporal_inflate", checks_models.check_temporal_inflate),
    ("dual_encoder_clip", checks_models.check_dual_encoder_clip),
    ("dual_encoder_distilbert_", checks_models.check_dual_encoder_distilbert),
    ("param_groups_clip", checks_models.check_param_groups_clip),
    ("classifier", checks_models.check_classifier),
    ("logits_warper", checks_narrator.check_warper),
    ("losses_distributed", checks_losses.check_losses_distributed),
    ("losses", checks_losses.check_losses),
    ("metric_ek100_mir", checks_metrics.check_ek100_mir),
    ("metric_charades", checks_metrics.check_charades),
    ("metric_egomcq", checks_losses.check_metric_egomcq),
    ("metric_classification", checks_metrics.check_classification),
    ("scheduler", checks_losses.check_scheduler),
    ("caption_metrics", checks_captions.check_caption_metrics),
    ("sampling", checks_data.check_sampling),
    ("transforms", checks_data.check_transforms),
    ("zeroshot_eval", checks_models.check_zeroshot_eval),
    ("tokenizers", checks_text.check_tokenizers),
    ("label_maps", checks_datasets.check_label_maps),
]

FILES = golden_files("lavila")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_lavila_golden_outputs_are_reproduced(path: Path) -> None:
    run_family(path, FAMILIES)
