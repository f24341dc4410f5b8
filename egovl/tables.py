"""The parts that a recipe may name. A new one is one file and one line here, nothing else.

Losses over pairs, parts of the contrastive task, have theirs in ``egovl.losses.configs``. Config
classes import nothing heavy; ``build()`` imports the part itself.
"""

from __future__ import annotations

from egovl.data.configs import EgoClipConfig, EgoMCQConfig
from egovl.models.configs import ClassifierConfig, DualEncoderConfig
from egovl.tasks.configs import ContrastiveConfig, MultipleChoiceConfig

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
