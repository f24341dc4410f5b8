"""The parts that a recipe may name. A new one is one file and one line here, nothing else.

Config classes import nothing heavy; ``build()`` imports the part itself.
"""

from __future__ import annotations

from egovl.data.configs import EgoClipConfig, EgoMCQConfig
from egovl.models.configs import DualEncoderConfig
from egovl.tasks.configs import ContrastiveConfig, MultipleChoiceConfig

TASKS = {
    "contrastive": ContrastiveConfig,
    "multiple_choice": MultipleChoiceConfig,
}

MODELS = {
    "dual_encoder": DualEncoderConfig,
}

DATASETS = {
    "egoclip": EgoClipConfig,
    "egomcq": EgoMCQConfig,
}
