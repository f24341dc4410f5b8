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
    EpisodicConfig,
    NarrationsConfig,
    OSCCConfig,
    PNRConfig,
    VideoWindowsConfig,
    WebVidConfig,
)
from egovl.data.datasets.long_video_configs import (
    AnticipationConfig,
    ClipsAndSummariesConfig,
    HowTo100MConfig,
    SummariesConfig,
    SummaryMCQConfig,
)
from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.data.datasets.view_configs import (
    CaptionPromptsConfig,
    ViewPairsConfig,
    ViewSetConfig,
)
from egovl.models.captioner.configs import CaptionerConfig
from egovl.models.configs import ClassifierConfig, DualEncoderConfig
from egovl.models.decoder_configs import GPT2Config, NarratorConfig, Seq2SeqConfig
from egovl.models.grounder.configs import GrounderConfig
from egovl.models.hierarchy_configs import HierarchicalEncoderConfig, LongVideoConfig
from egovl.models.view_configs import EgoFeatureEncoderConfig, ViewRetrieverConfig
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
from egovl.tasks.hierarchy_configs import AnticipationConfig as AnticipationTaskConfig
from egovl.tasks.hierarchy_configs import (
    HierarchicalConfig,
    LongVideoClassificationConfig,
    SummaryChoiceConfig,
)
from egovl.tasks.narration_configs import NarrationConfig
from egovl.tasks.view_configs import CaptioningConfig, ViewRetrievalConfig

TASKS = {
    "contrastive": ContrastiveConfig,
    "multiple_choice": MultipleChoiceConfig,
    "retrieval": RetrievalConfig,
    "zero_shot": ZeroShotConfig,
    "classification": ClassificationConfig,
    "keyframe": KeyframeConfig,
    "hierarchical": HierarchicalConfig,
    "summary_choice": SummaryChoiceConfig,
    "long_video_classification": LongVideoClassificationConfig,
    "anticipation": AnticipationTaskConfig,
    "grounding": GroundingConfig,
    "view_retrieval": ViewRetrievalConfig,
    "captioning": CaptioningConfig,
    "narration": NarrationConfig,
    "features": FeaturesConfig,
}

MODELS = {
    "classifier": ClassifierConfig,
    "dual_encoder": DualEncoderConfig,
    "hierarchical": HierarchicalEncoderConfig,
    "long_video": LongVideoConfig,
    "grounder": GrounderConfig,
    "view_retriever": ViewRetrieverConfig,
    "ego_feature_encoder": EgoFeatureEncoderConfig,
    "captioner": CaptionerConfig,
    "gpt2": GPT2Config,
    "narrator": NarratorConfig,
    "seq2seq": Seq2SeqConfig,
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
    "summaries": SummariesConfig,
    "clips_and_summaries": ClipsAndSummariesConfig,
    "summary_mcq": SummaryMCQConfig,
    "howto100m": HowTo100MConfig,
    "lta": AnticipationConfig,
    "nlq": NLQConfig,
    "video_windows": VideoWindowsConfig,
    "episodic": EpisodicConfig,
    "view_pairs": ViewPairsConfig,
    "view_set": ViewSetConfig,
    "caption_prompts": CaptionPromptsConfig,
}
