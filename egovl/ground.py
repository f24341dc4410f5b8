"""Spans of one video that answer questions, from the video file to a page that shows them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from egovl import config as configuration
from egovl.convert import own
from egovl.convert.command import convert_own
from egovl.convert.initialize import find_origin
from egovl.convert.released import convert_released
from egovl.convert.unpickle import CheckpointError, load_checkpoint
from egovl.data.configs import CLIPBPEConfig, LoaderConfig
from egovl.data.datasets.configs import VideoWindowsConfig
from egovl.data.datasets.nlq_configs import NLQConfig
from egovl.data.datasets.windows import VideoWindows
from egovl.data.decode import DecodeError, open_reader
from egovl.data.features import FeatureFacts, check_features, open_features
from egovl.data.loader import LoaderError, build_eval_loader
from egovl.data.query_text import canonical_question
from egovl.data.text import CLIPTokenizer
from egovl.ground_configs import GroundRequest
from egovl.ground_page import FoundSpan, write_page
from egovl.metrics.configs import SpanDecodingConfig
from egovl.metrics.span_decoding import TimeGrid, candidates, suppress, to_seconds
from egovl.metrics.span_nms import ScoredSpans
from egovl.models.dual_encoder import DualEncoder
from egovl.models.grounder.grounder import Grounder
from egovl.query_tokens import encode_words, has_end_tokens, text_tower_of
from egovl.recipe import DescribedModel, Recipe, StageConfig, load_recipe
from egovl.run import load_run
from egovl.tasks.configs import FeaturesConfig
from egovl.tasks.features import Features
from egovl.tasks.grounding_configs import GroundingConfig

logger = logging.getLogger(__name__)

EXIT_USAGE = 2
_EGOVLP_FPS, _WINDOW_FRAMES = 7.48, 4


@dataclass(frozen=True)
class LoadedGrounder:
    """A grounder and what is known of its features."""

    model: Grounder
    decoding: SpanDecodingConfig
    dataset: NLQConfig | None


def main(request: GroundRequest) -> int:
    """Find, print and show; returns the exit status."""
    try:
        answers, duration_sec = ground(request)
        page = request.out or Path(f"{request.video.stem}.ground.html")
        write_page(page, request.video, answers, duration_sec)
    except (OSError, ValueError, LoaderError, DecodeError) as error:
        sys.stderr.write(f"egovl: {error}\n")
        return EXIT_USAGE
    for query, spans in answers.items():
        print(query)
        for span in spans:
            print(f"  {span.start_sec:8.2f} .. {span.end_sec:8.2f} s  score {span.score:.3f}")
        if not spans:
            print("  nothing found")
    print(page)
    return 0


def ground(request: GroundRequest) -> tuple[dict[str, list[FoundSpan]], float]:
    """Spans of every query, best first, and the video's length in seconds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an empty query, or parts that do not fit together.
    """
    empty = [query for query in request.queries if not query.strip(" .?")]
    if empty:
        raise ValueError(f"--query {empty[0]!r} asks nothing: write a question")
    if not request.video.is_file():
        raise FileNotFoundError(f"no video at {request.video}")
    reader = open_reader(request.video)
    duration_sec = reader.num_frames / reader.fps
    grounder = load_grounder(request.checkpoint)
    tower_file = request.tower or (grounder.dataset.tower if grounder.dataset else None)
    if tower_file is None:
        raise ValueError("nobody knows the dual encoder behind the features: give --tower FILE")
    tower, tokenizer = load_tower(tower_file)
    windows = _windows_of(request, grounder.dataset)
    features = _features_of(request, windows, tower)
    _require_width("video features", features.shape[1], grounder.model.config.video_dim)
    texts = [canonical_question(query) for query in request.queries]
    ends = grounder.dataset is not None and has_end_tokens(grounder.dataset.text_features)
    tokens = encode_words(text_tower_of(tower), tokenizer, texts, end_token=ends)
    _require_width("token features", tokens[0].shape[1], grounder.model.config.text_dim)
    grid = _grid_of(request, windows, len(features), duration_sec)
    found = _answer(grounder, features, tokens, grid, duration_sec)
    answers = {
        query: [
            FoundSpan(float(start), float(end), float(score))
            for (start, end), score in zip(spans.spans, spans.scores, strict=True)
        ]
        for query, spans in zip(request.queries, found, strict=True)
    }
    return answers, duration_sec


def load_grounder(checkpoint: Path) -> LoadedGrounder:
    """A grounder from a run folder, an exported file or a released checkpoint.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it holds another model.
    """
    if checkpoint.is_dir():
        recipe, model, _ = load_run(checkpoint, load_recipe)
        return _grounder_of(recipe, model, checkpoint)
    if checkpoint.suffix == ".safetensors":
        described, state = own.read_weights_file(checkpoint)
        recipe, model = _exported(described, checkpoint)
        own.load_grounder(_require_grounder(model, checkpoint), state)
        return _grounder_of(recipe, model, checkpoint)
    converted = convert_released(checkpoint, "groundnlq")
    model = converted.config.build()
    model.load_state_dict(converted.weights, strict=False)
    decoding = SpanDecodingConfig(legacy_half_window=True, legacy_ties=True)
    return LoadedGrounder(_require_grounder(model, checkpoint), decoding, None)


def _exported(described: str, file: Path) -> tuple[Recipe | None, nn.Module]:
    """The whole recipe of an export, or the model alone of a conversion."""
    tree, context = yaml.safe_load(described), configuration.find_context(file)
    if "tokenizer" in tree:
        recipe: Recipe = configuration.build(Recipe, tree, context)
        return recipe, recipe.model.build()
    return None, configuration.build(DescribedModel, tree, context).model.build()


def _grounder_of(recipe: Recipe | None, model: nn.Module, file: Path) -> LoadedGrounder:
    grounder = _require_grounder(model, file)
    stages: list[StageConfig] = []
    if recipe is not None:
        stages = [*recipe.evaluate.values(), *([recipe.train] if recipe.train else [])]
    for stage in stages:
        if isinstance(stage.task, GroundingConfig) and isinstance(stage.dataset, NLQConfig):
            return LoadedGrounder(grounder, stage.task.decoding, stage.dataset)
    return LoadedGrounder(grounder, SpanDecodingConfig(), None)


def _require_grounder(model: nn.Module, file: Path) -> Grounder:
    if not isinstance(model, Grounder):
        raise CheckpointError(f"{file} holds a {type(model).__name__}, no grounder")
    return model.eval()


def load_tower(file: Path) -> tuple[DualEncoder, CLIPTokenizer]:
    """A dual encoder and its tokenizer from a run folder, an exported or a released file.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: it holds another model.
    """
    tokenizer: object = CLIPBPEConfig().build()
    if file.is_dir():
        recipe, model, _ = load_run(file, load_recipe)
        tokenizer = recipe.tokenizer.build()
    elif file.suffix == ".safetensors":
        described, state = own.read_weights_file(file)
        tree, context = yaml.safe_load(described), configuration.find_context(file)
        config = configuration.build(DescribedModel, {"model": tree["model"]}, context).model
        model = config.build()
        model.load_state_dict(convert_own(file, config, state).weights)
        if "tokenizer" in tree:
            tokenizer = configuration.build(Recipe, tree, context).tokenizer.build()
    else:
        converted = convert_released(file, find_origin(load_checkpoint(file).state))
        model = converted.config.build()
        model.load_state_dict(converted.weights, strict=False)
    if not isinstance(model, DualEncoder) or not isinstance(tokenizer, CLIPTokenizer):
        raise CheckpointError(f"{file} holds no dual encoder with CLIP's tokens")
    return model.eval(), tokenizer


def _windows_of(request: GroundRequest, dataset: NLQConfig | None) -> VideoWindowsConfig:
    """How features are cut: as asked, else as the grounder's own store, else as EgoVLP's."""
    facts = FeatureFacts()
    if dataset is not None and dataset.features.exists():
        facts = open_features(dataset.features).facts
    window = request.window_frames or facts.window_frames or _WINDOW_FRAMES
    return VideoWindowsConfig(
        files=(request.video,),
        fps=request.fps or facts.fps or _EGOVLP_FPS,
        window_frames=window,
        stride_frames=request.stride_frames or facts.stride_frames or window,
    )


def _grid_of(
    request: GroundRequest, windows: VideoWindowsConfig, length: int, duration_sec: float
) -> TimeGrid:
    if request.features is not None and request.fps is None:
        return TimeGrid(duration_sec / length, duration_sec / length)
    return TimeGrid(windows.stride_frames / windows.fps, windows.window_frames / windows.fps)


def _features_of(
    request: GroundRequest, config: VideoWindowsConfig, tower: DualEncoder
) -> np.ndarray:
    if request.features is not None:
        array = np.load(request.features, allow_pickle=False)
        return check_features(array, None, str(request.features))
    videos = VideoWindows(config)
    loader_config = LoaderConfig(
        eval_batch_size=32,
        num_workers=0,
        num_frames=config.window_frames,
        image_size=tower.config.video.image_size,
    )
    task = Features(FeaturesConfig())
    parts = []
    for batch in build_eval_loader(videos, loader_config, None, rank=0, world_size=1):
        with torch.no_grad():
            parts.append(task.eval_step(tower, batch)["features"].float().numpy())
    return np.concatenate(parts)


def _require_width(what: str, width: int, wanted: int) -> None:
    if width != wanted:
        raise ValueError(
            f"{what} have width {width}, the grounder was trained on {wanted}: name the dual "
            "encoder of its features with --tower"
        )


@torch.no_grad()
def _answer(
    grounder: LoadedGrounder,
    features: np.ndarray,
    tokens: Sequence[np.ndarray],
    grid: TimeGrid,
    duration_sec: float,
) -> list[ScoredSpans]:
    """Spans of every query in seconds; each text is encoded by itself."""
    video = torch.from_numpy(features)[None]
    mask = torch.ones(video.shape[:2], dtype=torch.bool)
    decoding = replace(grounder.decoding, max_spans=max(grounder.decoding.max_spans, 5))
    found = []
    for words in tokens:
        text: Tensor = torch.from_numpy(words)[None]
        text_mask = torch.ones(text.shape[:2], dtype=torch.bool)
        levels = grounder.model(video, mask, text, text_mask)
        kept = suppress(
            candidates(
                [level.logits[0] for level in levels],
                [level.offsets[0] for level in levels],
                [level.mask[0] for level in levels],
                [level.points for level in levels],
                decoding,
            ),
            decoding,
        )
        found.append(to_seconds(kept, grid, duration_sec, decoding))
    return found
