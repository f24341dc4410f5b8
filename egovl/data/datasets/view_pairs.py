"""Training pairs of the retriever: an ego clip and clips of the other view, as features."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egovl.data.configs import LoaderConfig
from egovl.data.datasets.second_features import SecondFeatures
from egovl.data.datasets.view_configs import ViewPairsConfig
from egovl.data.second_sampling import training_seconds
from egovl.data.types import Batch, RandomSource, Sample
from egovl.data.view_pairs import PairMember, ViewClip, ViewPairs, mine_partners, read_view_clips


@dataclass(frozen=True)
class _Group:
    index: int
    members: list[PairMember]
    features: list[Tensor]


class ViewPairsDataset:
    """Every clip of both views as an anchor, ego clips first.

    Batch: video ``[B, 1 + P, T, D]`` features, tokens ``[B, 1 + P, L]``, labels noun and verb
    ``[B, 1 + P, classes]``.
    """

    label_sizes: Mapping[str, int] = {}

    def __init__(self, config: ViewPairsConfig) -> None:
        self._config = config
        ego = load_view_clips(config.ego, is_exo=False)
        exo = load_view_clips(config.exo, is_exo=True)
        if config.mine_partners:
            mined = mine_partners(ego, exo)
            pairs = zip(ego, mined, strict=True)
            ego = [dataclasses.replace(clip, partners=tuple(found)) for clip, found in pairs]
        self._pairs = ViewPairs(
            ego,
            exo,
            pair_num=config.pair_num,
            clean_narrations=config.clean_narrations,
            legacy_pair_vectors=config.legacy_pair_vectors,
        )
        self._features = (SecondFeatures(config.ego_features), SecondFeatures(config.exo_features))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        clip = self._pairs.clip(index)
        return Sample(index, (), (clip.text or "",), {})

    def chunk_of(self, index: int) -> str:
        """Video of an anchor."""
        return self._pairs.clip(index).video

    def read_item(self, index: int, config: LoaderConfig, random: RandomSource | None) -> _Group:
        """An anchor, its partners, and their features."""

        def first(low: int, high: int) -> int:
            return low

        draw = random.integer if random is not None else None
        members = self._pairs.members(index, draw or first)
        features = [self._read(member.clip, config.num_frames, draw) for member in members]
        return _Group(index, members, features)

    def _read(self, clip: ViewClip, count: int, draw: Any) -> Tensor:
        store = self._features[clip.is_exo]
        length = store.length(clip.video)
        seconds = training_seconds(
            clip.span_sec,
            count,
            length,
            is_exo=clip.is_exo,
            expand_sec=self._config.expand_sec,
            draw=draw,
        )
        return store.rows(clip.video, seconds)

    def join_items(self, items: Sequence[_Group], tokenizer: Any) -> Batch:
        """Groups as a batch."""
        size = len(items[0].members)
        tokens, mask = tokenizer([member.text for item in items for member in item.members])
        nouns = [member.nouns for item in items for member in item.members]
        verbs = [member.verbs for item in items for member in item.members]
        return Batch(
            index=torch.tensor([item.index for item in items]),
            video=torch.stack([torch.stack(item.features) for item in items]),
            tokens=tokens.unflatten(0, (-1, size)),
            token_mask=mask.unflatten(0, (-1, size)),
            labels={
                "noun": _multi_hot(nouns, self._config.num_nouns).unflatten(0, (-1, size)),
                "verb": _multi_hot(verbs, self._config.num_verbs).unflatten(0, (-1, size)),
            },
        )


def load_view_clips(path: Path, *, is_exo: bool) -> list[ViewClip]:
    """Clips of a json file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such json; names file and record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist")
    try:
        return read_view_clips(json.loads(path.read_text(encoding="utf-8")), is_exo=is_exo)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _multi_hot(rows: Sequence[Sequence[int]], size: int) -> Tensor:
    hot = torch.zeros(len(rows), size)
    for number, classes in enumerate(rows):
        if any(not 0 <= c < size for c in classes):
            raise ValueError(f"classes {list(classes)} are outside 0 .. {size - 1}")
        hot[number, list(classes)] = 1
    return hot
