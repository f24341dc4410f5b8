"""EgoClip: 3.8 million narrated clips of Ego4D (EgoVLP)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from egovl.data.configs import EgoClipConfig
from egovl.data.datasets.clip_rows import ClipRows
from egovl.data.datasets.egoclip_table import NUM_NOUNS, NUM_VERBS, load_table
from egovl.data.sampling import DrawInteger
from egovl.data.types import Sample


class EgoClip(ClipRows):
    """One clip and its narration per sample, with verb and noun ids as labels.

    Raises:
        FileNotFoundError: The table or the video folder is missing.
    """

    label_sizes: Mapping[str, int] = {"verb": NUM_VERBS, "noun": NUM_NOUNS}

    def __init__(self, config: EgoClipConfig) -> None:
        config.check_root()
        super().__init__(
            config,
            load_table(config.annotations, config.on_bad_row, config.cache_folder, config.manifest),
        )
        self._config = config

    def __getitem__(self, index: int) -> Sample:
        table = self._table
        return Sample(
            index=index,
            clips=(self.clip(index),),
            texts=(table.value("text", index),),
            labels={"verb": table.value("verbs", index), "noun": table.value("nouns", index)},
        )

    @property
    def has_partners(self) -> bool:
        """Whether a training batch adds a scene-aware negative to every sample."""
        return self._config.neg_window_sec is not None

    def segment_of(self, index: int) -> tuple[str, int]:
        """Video and window of a narration; negatives share it."""
        return self._table.uid(index), self._table.window(index, self._window_sec())

    def negative_pool(self, index: int) -> np.ndarray:
        """Rows of the same video and window, the row itself included, increasing."""
        return self._table.same_window(index, self._window_sec())

    def partner(self, index: int, draw: DrawInteger) -> int:
        """Row of a scene-aware negative; the row itself if its window holds no other."""
        pool = self.negative_pool(index)
        if self._config.legacy_self_negative or len(pool) == 1:
            return int(pool[draw(0, len(pool) - 1)])
        own = int(np.searchsorted(pool, index))
        chosen = draw(0, len(pool) - 2)
        return int(pool[chosen + (chosen >= own)])

    def _window_sec(self) -> float:
        if self._config.neg_window_sec is None:
            raise ValueError("neg_window_sec is not set")
        return self._config.neg_window_sec
