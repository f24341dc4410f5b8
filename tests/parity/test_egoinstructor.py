"""Our models, losses and data rules against Egoinstructor's stored outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import checks_captions
from tests.parity import checks_egoinstructor as retrieval
from tests.parity import checks_egoinstructor_captioner as captioner
from tests.parity import checks_egoinstructor_data as data
from tests.parity.golden import Families, golden_files, names, run_family

FAMILIES: Families = [
    ("captioner_generate_with_eos", captioner.check_generation),
    ("captioner_.*_generate", captioner.check_generation),
    ("captioner_", captioner.check_captioner),
    ("text_processing", data.check_text_processing),
    ("frame_sampling", data.check_frame_sampling),
    ("frame_transform", data.check_frame_transform),
    ("legacy_bootstrap_sampler", data.check_bootstrap),
    ("caption_metrics", checks_captions.check_caption_metrics),
    ("retrieval_model", retrieval.check_retrieval_model),
    (r"egoexonce_\d+rank", retrieval.check_ego_exo_nce_ranks),
    ("egoexonce", retrieval.check_ego_exo_nce),
    ("retrieval_metrics", retrieval.check_retrieval_metrics),
    ("retrieval_eval", retrieval.check_retrieval_eval),
    ("retrieval_dataset", data.check_retrieval_dataset),
    ("retrieval_misc", retrieval.check_retrieval_misc),
    ("ego_feature_encoder", retrieval.check_ego_feature_encoder),
]

FILES = golden_files("egoinstructor")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_egoinstructor_golden_outputs_are_reproduced(path: Path) -> None:
    run_family(path, FAMILIES)
