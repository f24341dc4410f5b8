"""The parts that a recipe may name. A new one is one file and one line here, nothing else.

Losses over pairs, parts of the contrastive task, have theirs in ``egovl.losses.configs``. Config
classes import nothing heavy; ``build()`` imports the part itself.
"""

from __future__ import annotations

from egovl.data.configs import EgoClipConfig, EgoMCQConfig
from egovl.data.datasets.configs import (
    CC3MConfig,
    CharadesEgoConfig,
    EGTEAConfig,
    EpicClassificationConfig,
    EpicRetrievalConfig,
    NarrationsConfig,
    OSCCConfig,
    PNRConfig,
    VideoWindowsConfig,
    WebVidConfig,
)
from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.models.configs import ClassifierConfig, DualEncoderConfig
from egovl.models.grounder.configs import GrounderConfig
from egovl.tasks.configs import (
    ClassificationConfig,
    ContrastiveConfig,
    FeaturesConfig,
    KeyframeConfig,
    MultipleChoiceConfig,
    RetrievalConfig,
    ZeroShotConfig,
)
from egovl.tasks.grounding_configs import GroundingConfig

TASKS = {
    "contrastive": ContrastiveConfig,
    "multiple_choice": MultipleChoiceConfig,
    "retrieval": RetrievalConfig,
    "zero_shot": ZeroShotConfig,
    "classification": ClassificationConfig,
    "keyframe": KeyframeConfig,
    "grounding": GroundingConfig,
    "features": FeaturesConfig,
}

MODELS = {
    "classifier": ClassifierConfig,
    "dual_encoder": DualEncoderConfig,
    "grounder": GrounderConfig,
}

DATASETS = {
    "egoclip": EgoClipConfig,
    "egomcq": EgoMCQConfig,
    "narrations": NarrationsConfig,
    "webvid": WebVidConfig,
    "cc3m": CC3MConfig,
    "ek100_mir": EpicRetrievalConfig,
    "ek100_cls": EpicClassificationConfig,
    "charades_ego": CharadesEgoConfig,
    "egtea": EGTEAConfig,
    "oscc": OSCCConfig,
    "pnr": PNRConfig,
    "nlq": NLQConfig,
    "video_windows": VideoWindowsConfig,
}
