"""What a recipe holds: the dataclass that every yaml of ``configs/`` is built into."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from egovl import config as configuration
from egovl.data.configs import TOKENIZERS, LoaderConfig
from egovl.data.datasets.nlq_configs import QueryTokensConfig
from egovl.data.datasets.view_configs import SupportsConfig
from egovl.engine.configs import OptimConfig, TrainerConfig
from egovl.narration.configs import JOBS
from egovl.tables import DATASETS, MODELS, TASKS

if TYPE_CHECKING:
    TaskConfig = Any
    ModelConfig = Any
    DatasetConfig = Any
    TokenizerConfig = Any
    JobConfig = Any
else:  # the tables decide what a name may stand for
    TaskConfig = functools.reduce(operator.or_, TASKS.values())
    ModelConfig = functools.reduce(operator.or_, MODELS.values())
    DatasetConfig = functools.reduce(operator.or_, DATASETS.values())
    TokenizerConfig = functools.reduce(operator.or_, TOKENIZERS.values())
    JobConfig = functools.reduce(operator.or_, JOBS.values())


@dataclass(frozen=True)
class ParentsConfig:
    """A second stream of batches, seen by turns with the first: videos with summaries (HierVL)."""

    dataset: DatasetConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    children_per_parent: int = 5
    """Steps on the first stream before each on this one; 0: this one alone."""
    cache_clips: bool = False
    """With a frozen video tower: encode the clips once, kept in the run's folder, and train on
    their embeddings. Without random crops, flips and frames, which cannot be kept."""

    def __post_init__(self) -> None:
        if self.children_per_parent < 0:
            raise ValueError(
                f"children_per_parent is {self.children_per_parent}; it must be 0 or more"
            )


@dataclass(frozen=True)
class StageConfig:
    """A task on a dataset, read by a loader."""

    task: TaskConfig
    dataset: DatasetConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    parents: ParentsConfig | None = None
    """Training only."""
    cache_clips: bool = False
    """As in `parents`, for a task on long videos alone."""
    every: int = 1
    """Evaluation takes every n-th sample only."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}: must be 1 or more")
        if self.cache_clips and self.parents is not None:
            raise ValueError("cache_clips beside parents: set parents.cache_clips, as clips learn")


@dataclass(frozen=True)
class ExtractConfig(StageConfig):
    """Features of many videos, into a store (`egovl.data.features`): `python -m egovl extract`."""

    out: Path | None = field(default=None, kw_only=True)
    """Folder of the store: facts.json, and <video>.npy for each; null: `features` in the run's."""
    shard: int = field(default=0, kw_only=True)
    shards: int = field(default=1, kw_only=True)
    """This process takes part `shard` of `shards` of the videos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard is {self.shard}; it must be in 0 .. {self.shards - 1}")
        if self.shards > 1 and self.out is None:
            raise ValueError("out is null: several shards need one folder to write into")
        looked_at = getattr(self.dataset, "window_frames", None)
        if looked_at is None:
            name = self.dataset.name
            raise ValueError(f"dataset {name} has no windows: take video_windows or episodic")
        if looked_at != self.loader.num_frames:
            raise ValueError(
                f"dataset.window_frames is {looked_at}, loader.num_frames "
                f"{self.loader.num_frames}: make them equal"
            )


@dataclass(frozen=True)
class WriteConfig:
    """Texts to be written about the samples of a dataset, by one task or an array of them."""

    job: JobConfig
    dataset: DatasetConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    out: Path | None = None
    """Folder of records and lists, the same for all shards; null: `narrations` in the run's."""
    shard: int = 0
    shards: int = 1
    """Parts that the samples are cut into, a task each."""
    batches_per_part: int = 8
    """Batches written at a time; a stop loses none, a crash at most these."""

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"shard {self.shard} of shards {self.shards}: must be 0 to shards - 1")
        if self.batches_per_part < 1:
            raise ValueError(f"batches_per_part is {self.batches_per_part}: must be 1 or more")
        if self.shards > 1 and self.out is None:
            raise ValueError("out is null: several shards need one folder to write into")


@dataclass(frozen=True)
class InitConfig:
    """Weights to start from."""

    origin: Literal[
        "auto",
        "egovl",
        "clip",
        "timm",
        "lavila",
        "egovlp",
        "hiervl",
        "groundnlq",
        "egoinstructor",
    ] = "egovl"
    """Who wrote the file: our own run folder or export, or a released checkpoint to convert; auto:
    by its tensors' names."""
    file: Path | None = None
    text: Path | None = None
    """Where the text side starts from weights of its own: a Hugging Face folder of DistilBERT or,
    for a narrator, of GPT-2; there also a run folder or export of a language model of ours."""
    base: Path | None = None
    """Folder of the base model that a captioner's trained part, `file`, is laid over."""
    inflate: Literal["bilinear", "zeros", "interp"] | None = None
    """How a temporal embedding of fewer frames is stretched; null: as the origin's paper does."""
    resize_positions: bool = False
    """Bring spatial positions to another image or patch size, bicubic; off, it is refused."""
    weights: Literal["raw", "ema"] = "raw"
    """ema: the moving average that lies beside the weights."""
    heads: bool = True
    """Of a grounder; false: its heads keep their own initial values (GroundNLQ's finetuning)."""

    def __post_init__(self) -> None:
        if self.file is None and self.text is None and self.base is None:
            raise ValueError("neither file, text nor base is there; init: null starts at random")


@dataclass(frozen=True)
class Recipe:
    """One run: a model, what it trains on, what it is evaluated on."""

    model: ModelConfig
    tokenizer: TokenizerConfig
    train: StageConfig | None = None
    evaluate: dict[str, StageConfig] = field(default_factory=dict)
    features: ExtractConfig | None = None
    write: WriteConfig | None = None
    tokens: QueryTokensConfig | None = None
    supports: SupportsConfig | None = None
    init: InitConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(epochs=1))
    seed: int = 0

    def __post_init__(self) -> None:
        sections = (self.train, self.evaluate, self.features, self.write, self.tokens)
        if not any((*sections, self.supports)):
            raise ValueError(
                "neither train:, evaluate:, features:, write:, tokens: nor supports: is there; a "
                "recipe needs one of them"
            )

    def only(self, evaluation: str | None) -> Recipe:
        """The same with one evaluation of those it has; None: with all.

        Raises:
            egovl.config.ConfigError: it has no such evaluation.
        """
        if evaluation is None:
            return self
        if evaluation not in self.evaluate:
            known = ", ".join(self.evaluate) or "none"
            raise configuration.ConfigError(f"no evaluation {evaluation!r}; the recipe has {known}")
        return dataclasses.replace(self, evaluate={evaluation: self.evaluate[evaluation]})

    def with_stores_in(self, run_dir: Path | None) -> Recipe:
        """The same; stores without a folder are `features` and `tokens` in the run's.

        Raises:
            egovl.config.ConfigError: there is no run folder either.
        """
        stores: dict[str, Any] = {}
        for name, config in (("features", self.features), ("tokens", self.tokens)):
            if config is not None and config.out is None:
                if run_dir is None:
                    raise configuration.ConfigError(
                        f"{name}.out is null, and there is no run folder: name one, {name}.out=DIR"
                    )
                stores[name] = dataclasses.replace(config, out=run_dir / name)
        return dataclasses.replace(self, **stores)


@dataclass(frozen=True)
class DescribedModel:
    """The part of a recipe that a weights file carries in its header."""

    model: ModelConfig


def dump_model(config: ModelConfig) -> str:
    """A model's sizes as yaml."""
    return configuration.dump(DescribedModel(config))


def model_config(described: str, file: Path) -> ModelConfig:
    """The model that the header of `file` describes.

    Raises:
        egovl.config.ConfigError: it names what this version does not know.
    """
    tree = yaml.safe_load(described)
    try:
        context = configuration.find_context(file)
        return configuration.build(DescribedModel, {"model": tree["model"]}, context).model
    except (configuration.ConfigError, KeyError, TypeError) as error:
        raise configuration.ConfigError(f"{file}: its header: {error}") from error


def stages(recipe: Recipe) -> Iterator[tuple[str, StageConfig]]:
    """Name and config of everything in a recipe that reads a dataset."""
    if recipe.train is not None:
        yield "train", recipe.train
    yield from recipe.evaluate.items()
    if recipe.features is not None:
        yield "features", recipe.features


_HASHED_BYTES = 1 << 24  # read at once


def input_hashes(recipe: Recipe, find_checkpoint: Callable[[Path], Path]) -> dict[str, str]:
    """SHA-256 of what a result depends on: evaluated annotations and relevancies, first weights.

    Args:
        recipe: The run.
        find_checkpoint: From a run folder to its newest checkpoint, whose COMMIT is hashed.
    """
    found = {
        f"evaluate.{key}": hash_file(path)
        for key, path in _paths(recipe.evaluate)
        if path.is_file()
    }
    if recipe.init is not None and recipe.init.file is not None:
        file = recipe.init.file
        found["init.file"] = hash_file(file if file.is_file() else find_checkpoint(file) / "COMMIT")
    return found


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


OUTPUTS = {"cache_folder", "submission", "out"}  # paths that need not be there yet


def missing_inputs(config: object, where: str = "") -> list[str]:
    """Every file and folder that a recipe names and this machine lacks, as ``key: path``."""
    return [f"{key}: {path}" for key, path in _paths(config, where) if not path.exists()]


def _paths(config: object, where: str = "") -> Iterator[tuple[str, Path]]:
    """Key and value of every input path of a config."""
    if isinstance(config, Path):
        yield where, config
    elif isinstance(config, Mapping):
        for key, value in config.items():
            yield from _paths(value, f"{where}.{key}" if where else str(key))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from _paths(value, f"{where}.{number}")
    elif dataclasses.is_dataclass(config):
        for entry in dataclasses.fields(config):
            if entry.name not in OUTPUTS:
                place = f"{where}.{entry.name}" if where else entry.name
                yield from _paths(getattr(config, entry.name), place)


def load_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override, check and build a recipe.

    Raises:
        egovl.config.ConfigError: with the place, the value and what would be right.
    """
    tree = configuration.load_tree(file, overrides)
    try:
        return configuration.build(Recipe, tree, configuration.find_context(file))
    except configuration.ConfigError as error:
        raise configuration.ConfigError(f"{file}: {error}") from error
