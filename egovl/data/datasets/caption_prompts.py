"""Prompts of the captioner: an ego clip, and clips of how others do it.

Egoinstructor spec 3.2 to 3.4.

A support whose video cannot be read is left out, and the next one takes its place; the ego clip
itself must be readable. Prompts that are trained end with their answer; those that are evaluated
stop before it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from egovl.data.bootstrap import bootstrap_generator, bootstrap_indices
from egovl.data.caption_frames import published_chunk_sec
from egovl.data.clip_files import ClipFiles, read_clip, to_pixels
from egovl.data.configs import LoaderConfig
from egovl.data.datasets.view_configs import CaptionPromptsConfig
from egovl.data.decode import DecodeError
from egovl.data.kept_clips import KeptClips
from egovl.data.prompts import (
    PromptStyle,
    Supports,
    choose_supports,
    exchange_of,
    format_example,
    pick_in_turn,
    prompt_text,
    reference_of,
)
from egovl.data.reader_cache import ReaderCache
from egovl.data.types import Batch, RandomSource, Sample
from egovl.shards import read_shards

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One sample: text and clips ``[T, F, C, H, W]`` in its order."""

    index: int
    text: str
    clips: Tensor
    is_open: bool


class CaptionPrompts:
    """Ego clips with their supports; the keys of the supports file are the samples.

    Batch: video ``[B, T, F, C, H, W]``, tokens ``[B, L]`` padded on the right for training, on the
    left for writing. `references` has the true caption of each sample.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: CaptionPromptsConfig) -> None:
        for root in (config.ego_root, config.exo_root):
            if not root.is_dir():
                raise FileNotFoundError(
                    f"{root} is not a folder; set ego_root and exo_root, or configs/paths.yaml"
                )
        self._config = config
        self._records = load_records(config.instructions)
        self._supports = load_supports(config.supports)
        self._keys = sorted(self._supports)
        self._shots = config.max_shot if config.with_supports else 0
        self._style = PromptStyle(
            config.format, config.system, config.clean_narrations, config.use_chat
        )
        self._ego, self._exo = _files_of(config)
        self._refuse_unknown()
        self._rows = self._chosen_rows()
        self._readers: ReaderCache | None = None
        self._kept = KeptClips(config.kept_clips_mb)
        self._said: set[Path] = set()

    def __getstate__(self) -> dict[str, object]:
        # open files stay where they were opened, and pictures where they were read
        return {**self.__dict__, "_readers": None, "_kept": KeptClips(self._config.kept_clips_mb)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return Sample(index, (), (self._reference(index),), {})

    def chunk_of(self, index: int) -> str:
        """Video of the ego clip."""
        return self._records[self._key(index)]["image_ids"][0]["vid"]

    @property
    def references(self) -> list[str]:
        """The true caption of every sample."""
        return [self._reference(index) for index in range(len(self))]

    def read_item(self, index: int, config: LoaderConfig, random: RandomSource | None) -> Prompt:
        """Text and clips of one sample.

        Raises:
            DecodeError: the ego clip cannot be read.
        """
        key = self._key(index)
        draws = None if random is None else Random(random.integer(0, (1 << 62) - 1))
        own = self._read(key, self._ego, config)
        names, clips = self._before(key, own, draws, config)
        cases = draws
        if draws is None and self._config.legacy_random_case:
            cases = Random(index)
        items = [exchange_of(self._records[name], self._style, cases) for name in [*names, key]]
        text = prompt_text(items, self._style, is_open=random is None)
        return Prompt(index, text, torch.stack([*clips, own]), random is None)

    def join_items(self, items: Sequence[Prompt], tokenizer: Any) -> Batch:
        """Prompts as a batch.

        Raises:
            ValueError: prompts of different numbers of clips.
        """
        counts = {len(item.clips) for item in items}
        if len(counts) > 1:
            raise ValueError(
                f"prompts of {sorted(counts)} clips cannot stand in one batch: give every ego clip "
                "max_shot supports or more, or take batches of one"
            )
        is_open = items[0].is_open
        ids = [tokenizer.encode_prompt(item.text, is_open=is_open) for item in items]
        tokens, mask = tokenizer.pad(ids, left=is_open)
        return Batch(
            index=torch.tensor([item.index for item in items]),
            video=torch.stack([item.clips for item in items]),
            tokens=tokens,
            token_mask=mask,
            labels={},
        )

    def _before(
        self, key: str, own: Tensor, draws: Random | None, config: LoaderConfig
    ) -> tuple[list[str], list[Tensor]]:
        """Records before the query and the clips to look at with them."""
        if not self._shots:
            # with none wanted, the format is still shown, by a text without a clip
            return [format_example(key)] if self._config.with_supports else [], []
        names = self._supports[key]
        read: dict[int, Tensor] = {}

        def is_readable(candidate: int) -> bool:
            try:
                read[candidate] = self._read(names[candidate], self._exo, config)
            except DecodeError as error:
                self._say(error)
                return False
            return True

        def pick(found: Sequence[int], missing: int) -> Sequence[int]:
            return draws.choices(found, k=missing) if draws else pick_in_turn(found, missing)

        supports: Supports = choose_supports(len(names), self._shots, is_readable, pick)
        clips = [own if i is None else read[i] for i in supports.clips]
        return [names[i] for i in supports.records], clips

    def _read(self, key: str, files: ClipFiles, config: LoaderConfig) -> Tensor:
        """Frames ``[F, C, H, W]`` of a record, the same in training and evaluation."""
        clip = self._records[key]["image_ids"][0]
        span = (clip["start_second"], clip["end_second"])

        def read() -> Tensor:
            frames = read_clip(
                self._open_readers(config), files, clip["vid"], span, config.num_frames
            )
            return to_pixels(
                frames, config.image_size, antialias=config.antialias, as_float=config.float_pixels
            )

        return self._kept.get((files, clip["vid"], span, config), read)

    def _open_readers(self, config: LoaderConfig) -> ReaderCache:
        if self._readers is None:
            self._readers = ReaderCache(
                config.backend, config.open_readers, config.decode_timeout_sec
            )
        return self._readers

    def _key(self, index: int) -> str:
        return self._keys[self._rows[index]]

    def _reference(self, index: int) -> str:
        return reference_of(self._records[self._key(index)], self._style)

    def _say(self, error: DecodeError) -> None:
        if error.path not in self._said:
            self._said.add(error.path)
            log.warning("a support is left out: %s", error)

    def _refuse_unknown(self) -> None:
        needed = {name: key for key, names in self._supports.items() for name in (key, *names)}
        if self._config.with_supports and not self._config.max_shot:
            needed = {name: key for key in self._keys for name in (key, format_example(key))}
        unknown = [name for name in needed if name not in self._records]
        if unknown:
            raise ValueError(
                f"{self._config.supports}: {unknown[0]} (of {needed[unknown[0]]}) is no record of "
                f"{self._config.instructions}; {len(unknown)} such"
            )

    def _chosen_rows(self) -> list[int]:
        count = len(self._keys)
        if not self._config.legacy_bootstrap_sampler:
            return list(range(count))
        # published: torch is seeded with 0 on every rank, in training and at test
        seeds = torch.Generator().manual_seed(0)
        return bootstrap_indices(count, count, bootstrap_generator(seeds))


def load_records(path: Path) -> Mapping[str, Record]:
    """Records of an ``*_instructions.json`` by id.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no ``data``, or a record lacks a field.
    """
    content = _load_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("data"), Mapping):
        raise ValueError(f"{path} has no records below the key 'data'")
    needed = ("instruction", "answer", "image_ids")
    for key, record in content["data"].items():
        missing = [name for name in needed if name not in record]
        if missing:
            raise ValueError(f"{path}: record {key} lacks {missing}")
    return content["data"]


def load_supports(path: Path) -> Mapping[str, Sequence[str]]:
    """Supports of each ego clip, the best first, from a json or from a folder of shards.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is something else, or empty.
    """
    if path.is_dir():
        found = {record["key"]: record["supports"] for record in read_shards(path)}
    else:
        content = _load_json(path)
        is_lists = isinstance(content, Mapping) and all(
            isinstance(names, list) for names in content.values()
        )
        if not is_lists:
            raise ValueError(f"{path} does not map ids of ego clips to lists of ids")
        found = dict(content)
    if not found:
        raise ValueError(f"{path} names no ego clip")
    return found


def _load_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no json: {error}") from error


def _files_of(config: CaptionPromptsConfig) -> tuple[ClipFiles, ClipFiles]:
    ego = ClipFiles(config.ego_root, config.ego_chunk_sec, config.ego_fps)
    exo = ClipFiles(config.exo_root, config.exo_chunk_sec, config.exo_fps)
    if not config.legacy_15s_roots:
        return ego, exo
    found = []
    for files, is_ego in ((ego, True), (exo, False)):
        chunk_sec, fps = published_chunk_sec(str(files.root), is_ego)
        found.append(ClipFiles(files.root, chunk_sec, fps or files.fps))
    return found[0], found[1]
