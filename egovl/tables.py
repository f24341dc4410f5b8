"""The parts that a recipe may name. A new one is one file and one line here, nothing else.

A loss over pairs is part of a task; its table stands beside the losses. Config classes import
nothing heavy; ``build()`` imports the part itself.
"""

from __future__ import annotations

from egovl.data.configs import EgoClipConfig, EgoMCQConfig
from egovl.losses.configs import LOSSES
from egovl.models.configs import ClassifierConfig, DualEncoderConfig
from egovl.tasks.configs import ContrastiveConfig, MultipleChoiceConfig

__all__ = ["DATASETS", "LOSSES", "MODELS", "TASKS"]

TASKS = {
    "contrastive": ContrastiveConfig,
    "multiple_choice": MultipleChoiceConfig,
}

MODELS = {
    "classifier": ClassifierConfig,
    "dual_encoder": DualEncoderConfig,
}

DATASETS = {
    "egoclip": EgoClipConfig,
    "egomcq": EgoMCQConfig,
}
